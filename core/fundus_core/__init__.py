"""What training, export, serving and client agree on: images, preprocessing, views, the ensemble, tables."""

"""Score folders of photographs through a Triton server: files -> requests -> scores.csv and run.json."""

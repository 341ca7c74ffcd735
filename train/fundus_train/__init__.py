"""Train the folds of an ensemble: recipe -> cases -> split -> one network per fold -> tables of scores."""

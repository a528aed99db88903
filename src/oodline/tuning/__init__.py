"""Settings without OOD data: pseudo-outliers made of ID data, and the search that reads them."""

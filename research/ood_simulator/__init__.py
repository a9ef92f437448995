"""Does it hold on SWI of another make? A second generator, which shares neither code nor a modelling idea with the phantom."""

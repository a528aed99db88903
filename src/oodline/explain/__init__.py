"""Where in an image the evidence for a class is, which parts make a verdict, and how faithful such answers are."""

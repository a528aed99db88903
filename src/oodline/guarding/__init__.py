"""How a guard is put together, and how it knows the classifier it was calibrated on."""

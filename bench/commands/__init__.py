"""What the commands of ``sisbench.cli`` do and print; one module for each kind of question."""

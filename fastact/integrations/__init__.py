"""`fastact.Monitor` in other libraries' training loops: one module for each, which imports its library."""

"""Areas that `doctor` looks at, by functions that import nothing that might be broken."""

"""Pictures: drawn, remembered, laid out."""

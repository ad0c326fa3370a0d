"""The training objectives' definitions, each with its switch."""

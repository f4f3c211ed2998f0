"""The commands, one module a subject: options as a dataclass, and what they do."""

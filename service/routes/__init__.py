"""HTTP handlers, one file per subject: parse, call, convert."""

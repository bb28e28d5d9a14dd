"""From files to rows: sources (files → fields), formats (fields → records), codec (records → tokens), split."""

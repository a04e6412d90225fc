//! What the first page of a SQLite database says. Offsets are those of SQLite's file format.

//! LTX v3: the format of every `.snapshot` and `.wal` object.

//! Walks the YAML of a configuration by the table of keys, and lets the parser add the place to each error.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::document::{KeyError, Reader};
use super::keys::{self, Key, Meaning};

/// Reads a whole document.
pub fn document<'de, D: Deserializer<'de>>(
    reader: &mut Reader<'_>,
    document: D,
) -> Result<(), D::Error> {
    let top = Node {
        reader,
        path: "",
        meaning: Meaning::Section,
    };
    top.deserialize(document)
}

/// What stands behind one key, or is one element of its list.
struct Node<'r, 'a> {
    reader: &'r mut Reader<'a>,
    path: &'static str,
    meaning: Meaning,
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.meaning {
            Meaning::Section => deserializer.deserialize_map(self),
            Meaning::List(_) | Meaning::WatchPaths => deserializer.deserialize_seq(self),
            Meaning::WatchPath(_) => deserializer.deserialize_any(self),
            // As text, so that a version or a password of digits stays what was written.
            Meaning::Value(_) | Meaning::Only(_) | Meaning::NotYet => {
                deserializer.deserialize_str(self)
            }
        }
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self.meaning {
            Meaning::Section => "keys with values",
            Meaning::List(_) => "a list of values",
            Meaning::WatchPaths => "a list of paths",
            Meaning::WatchPath(_) => "a path, or path, mountpoint and prefix",
            Meaning::Value(_) | Meaning::Only(_) | Meaning::NotYet => "one value",
        })
    }

    fn visit_str<E: de::Error>(mut self, text: &str) -> Result<(), E> {
        let outcome = match self.meaning {
            Meaning::Value(set) => self.reader.value(self.path, set, text),
            Meaning::WatchPath(set) => self
                .only_one_watch_path()
                .and_then(|()| self.reader.value(self.path, set, text)),
            Meaning::Only(value) if value == text => Ok(()),
            _ => Err(KeyError::NotYet {
                what: format!("`{}: {text}`", self.path),
            }),
        };
        outcome.map_err(|error| self.reader.fail(error))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let reader = self.reader;
        let (path, meaning) = match self.meaning {
            Meaning::List(set) => (self.path, Meaning::Value(set)),
            _ => {
                let element = keys::watch_path_element();
                (element.path, element.meaning)
            }
        };
        let mut elements = 0;
        while let Some(()) = list.next_element_seed(Node {
            reader,
            path,
            meaning,
        })? {
            elements += 1;
        }
        if elements > 0 {
            return Ok(());
        }
        Err(reader.fail(KeyError::Value {
            path: self.path,
            reason: "the list is empty; leave the key out for its default".to_owned(),
        }))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        if matches!(self.meaning, Meaning::WatchPath(_)) {
            self.only_one_watch_path()
                .map_err(|error| self.reader.fail(error))?;
        }
        let reader = self.reader;
        while let Some(key) = map.next_key_seed(KeyName {
            reader,
            section: self.path,
        })? {
            map.next_value_seed(Node {
                reader,
                path: key.path,
                meaning: key.meaning,
            })?;
        }
        Ok(())
    }
}

impl Node<'_, '_> {
    fn only_one_watch_path(&mut self) -> Result<(), KeyError> {
        match self.reader.written.watch_path {
            None => Ok(()),
            Some(_) => Err(KeyError::NotYet {
                what: "more than one path in `autoDiscovery.watchPaths`".to_owned(),
            }),
        }
    }
}

/// A key, looked up where it stands.
struct KeyName<'r, 'a> {
    reader: &'r mut Reader<'a>,
    section: &'static str,
}

impl<'de> DeserializeSeed<'de> for KeyName<'_, '_> {
    type Value = &'static Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyName<'_, '_> {
    type Value = &'static Key;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        let reader = self.reader;
        reader
            .key(self.section, name)
            .map_err(|error| reader.fail(error))
    }
}

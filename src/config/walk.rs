//! Walks the YAML of a configuration by the table of keys, and lets the parser add the place to each error.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::document::{KeyError, Reader};
use super::keys::{Elements, Key, Meaning};

/// Reads a whole document.
pub fn document<'de, D: Deserializer<'de>>(
    reader: &mut Reader<'_>,
    document: D,
) -> Result<(), D::Error> {
    let top = Node {
        reader,
        path: "",
        place: Place::Value(Meaning::Section),
    };
    top.deserialize(document)
}

/// What stands behind one key, or is one element of its list.
struct Node<'r, 'a> {
    reader: &'r mut Reader<'a>,
    path: &'static str,
    place: Place,
}

/// What may stand there.
#[derive(Clone, Copy)]
enum Place {
    Value(Meaning),
    /// One section of a list.
    Element(&'static Elements),
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.place {
            Place::Value(Meaning::Section) => deserializer.deserialize_map(self),
            Place::Value(Meaning::List(_) | Meaning::Elements(_)) => {
                deserializer.deserialize_seq(self)
            }
            Place::Element(_) => deserializer.deserialize_any(self),
            // As text, so that a version or a password of digits stays what was written.
            Place::Value(Meaning::Value(_)) => deserializer.deserialize_str(self),
        }
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self.place {
            Place::Value(Meaning::Section) => "keys with values",
            Place::Value(Meaning::List(_)) => "a list of values",
            Place::Value(Meaning::Elements(_)) => "a list",
            Place::Element(elements) if elements.text.is_some() => "a value, or keys with values",
            Place::Element(_) => "keys with values",
            Place::Value(Meaning::Value(_)) => "one value",
        })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        let outcome = match self.place {
            Place::Value(Meaning::Value(set)) => self.reader.value(self.path, set, text),
            Place::Element(elements) => {
                let Some(set) = elements.text else {
                    return Err(E::invalid_type(de::Unexpected::Str(text), &self));
                };
                self.reader.begin_element(elements);
                self.reader.value(self.path, set, text)
            }
            Place::Value(_) => return Err(E::invalid_type(de::Unexpected::Str(text), &self)),
        };
        outcome.map_err(|error| self.reader.fail(error))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let reader = self.reader;
        let (path, place) = match self.place {
            Place::Value(Meaning::List(set)) => (self.path, Place::Value(Meaning::Value(set))),
            Place::Value(Meaning::Elements(elements)) => (elements.path, Place::Element(elements)),
            _ => return Err(de::Error::custom("a list where there can be none")),
        };
        let mut elements = 0;
        while let Some(()) = list.next_element_seed(Node {
            reader,
            path,
            place,
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

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let reader = self.reader;
        if let Place::Element(elements) = self.place {
            reader.begin_element(elements);
        }
        while let Some(key) = map.next_key_seed(KeyName {
            reader,
            section: self.path,
        })? {
            map.next_value_seed(Node {
                reader,
                path: key.path,
                place: Place::Value(key.meaning),
            })?;
        }
        Ok(())
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

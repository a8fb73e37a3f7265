//! `mesh.chords`: "auto", "none" or `{ kind = "random", count = 2 }`.

use std::fmt;

use ringmesh_node::{ChordKind, Chords, MAX_CHORDS};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// A rule of chords as the file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChordRule(pub Chords);

/// The table form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    kind: String,
    count: u8,
}

impl<'de> Deserialize<'de> for ChordRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Rule)
    }
}

struct Rule;

impl<'de> Visitor<'de> for Rule {
    type Value = ChordRule;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"auto\", \"none\" or { kind = \"random\", count = 2 }")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ChordRule, E> {
        match text {
            "auto" => Ok(ChordRule(Chords::Auto)),
            "none" => Ok(ChordRule(Chords::None)),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ChordRule, A::Error> {
        let Table { kind, count } = Table::deserialize(MapAccessDeserializer::new(map))?;
        let Some(known) = ChordKind::ALL.into_iter().find(|known| known.as_str() == kind) else {
            let kinds = ChordKind::ALL.map(|kind| format!("\"{}\"", kind.as_str())).join(", ");
            return Err(A::Error::custom(format!("\"{}\" is no kind of chords; use {kinds}", kind.escape_debug())));
        };
        let out_of_range = || A::Error::custom(format!("a host draws 1 to {MAX_CHORDS} chords, not {count}"));
        Chords::of(known, count).map(ChordRule).ok_or_else(out_of_range)
    }
}

impl Serialize for ChordRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.0.to_string();
        match text.split_once(':') {
            Some((kind, count)) => {
                let count = count.parse().map_err(serde::ser::Error::custom)?;
                Table { kind: kind.to_owned(), count }.serialize(serializer)
            }
            None => serializer.serialize_str(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Mesh {
        chords: ChordRule,
        after: u32,
    }

    fn read(text: &str) -> Result<String, String> {
        let mesh: Mesh = toml::from_str(&format!("after = 1\nchords = {text}")).map_err(|e| e.message().to_owned())?;
        let again = toml::from_str(&toml::to_string(&mesh).expect("it can be written")).expect("it can be read");
        assert_eq!(mesh, again);
        Ok(mesh.chords.0.to_string())
    }

    #[test]
    fn every_form_is_read_and_written() {
        for (text, rule) in [
            ("\"auto\"", "auto"),
            ("\"none\"", "none"),
            ("{ kind = \"random\", count = 3 }", "random:3"),
            ("{ kind = \"sqrt\", count = 1 }", "sqrt:1"),
            ("{ kind = \"fingers\", count = 8 }", "fingers:8"),
            ("{ kind = \"rack-aware\", count = 2 }", "rack-aware:2"),
        ] {
            assert_eq!(read(text), Ok(rule.to_owned()));
        }
    }

    #[test]
    fn errors_say_what_would_be_right() {
        for (text, expected) in [
            ("\"random:2\"", "expected \"auto\", \"none\" or { kind"),
            ("2", "expected \"auto\", \"none\" or { kind"),
            ("{ kind = \"rings\", count = 2 }", "\"rings\" is no kind of chords; use \"random\", \"sqrt\""),
            ("{ kind = \"sqrt\", count = 0 }", "a host draws 1 to 8 chords, not 0"),
            ("{ kind = \"sqrt\", count = 9 }", "a host draws 1 to 8 chords, not 9"),
            ("{ kind = \"sqrt\" }", "missing field `count`"),
            ("{ kind = \"sqrt\", count = 2, x = 1 }", "unknown field `x`"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}

//! `[store]`: the configuration that the hosts replicate among themselves.

use std::{net::SocketAddr, time::Duration};

use ringmesh_node::roles::{self, Voters};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::range;

/// Bytes of the smallest quota.
const MIN_QUOTA_BYTES: u64 = 16 << 20;

/// Bytes of the largest quota: all keys' names are in memory.
const MAX_QUOTA_BYTES: u64 = 16 << 30;

/// `[store]`: what this host holds of the configuration, and, while it leads, who else does. Give all hosts the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// How many hosts have a vote: 1, 3, 5 or 7, or "auto": 1 of fewer than three hosts, 5 of at least seven hosts or five
    /// racks, else 3. Default "auto".
    pub voters: VoterCount,
    /// How many more hosts hold all, to take the place of a voter that is lost. 0 to 8, default 2.
    pub standbys: usize,
    /// A voter that is down for so long loses its place to a stand-by. 1 s to 1 h, default 30 s.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub replace_after: Duration,
    /// Whether this host may hold a replica. Default true.
    pub eligible: bool,
    /// Bytes of keys and values beyond which nothing more is written. 16777216 to 17179869184, default 2147483648.
    pub quota_bytes: u64,
    /// How long old revisions can be read and watched from. 1 min to 30 days, default 1 h.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub retention: Duration,
    /// Where etcd's API is served without protection, such as "127.0.0.1:2379": to this machine only. Default nowhere.
    pub etcd_listen: Vec<SocketAddr>,
}

impl Default for Store {
    fn default() -> Self {
        let roles::Settings { voters: _, standbys, replace_after } = roles::Settings::default();
        Self {
            voters: VoterCount(Voters::Auto),
            standbys,
            replace_after,
            eligible: true,
            quota_bytes: 2 << 30,
            retention: Duration::from_secs(3600),
            etcd_listen: Vec::new(),
        }
    }
}

impl Store {
    /// For the replica that leads.
    pub fn roles(&self) -> roles::Settings {
        roles::Settings { voters: self.voters.0, standbys: self.standbys, replace_after: self.replace_after }
    }

    pub(super) fn check(&self) -> Result<(), (String, String)> {
        range("store.standbys", self.standbys, 0, 8)?;
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
        for (key, value, least, most, text) in [
            ("store.replace_after", self.replace_after, second, day / 24, "1 s to 1 h"),
            ("store.retention", self.retention, second * 60, day * 30, "1 min to 30 days"),
        ] {
            if !(least..=most).contains(&value) {
                return Err((key.into(), format!("is out of range, {text}")));
            }
        }
        if !(MIN_QUOTA_BYTES..=MAX_QUOTA_BYTES).contains(&self.quota_bytes) {
            let text = format!("is out of range, {MIN_QUOTA_BYTES} to {MAX_QUOTA_BYTES}");
            return Err(("store.quota_bytes".into(), text));
        }
        match self.etcd_listen.iter().find(|address| !address.ip().is_loopback()) {
            None => Ok(()),
            Some(address) => Err((
                "store.etcd_listen".into(),
                format!(
                    "has {address}, which others can reach: there is no password and no TLS; use a loopback address, or \
                     api.listen, where etcd's API is served with certificates"
                ),
            )),
        }
    }
}

/// A number, or "auto".
#[derive(Clone, Copy, Debug)]
pub struct VoterCount(pub Voters);

impl Serialize for VoterCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Voters::Auto => serializer.serialize_str("auto"),
            Voters::Fixed(voters) => serializer.serialize_u64(voters as u64),
        }
    }
}

impl<'de> Deserialize<'de> for VoterCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = VoterCount;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("1, 3, 5, 7 or \"auto\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<VoterCount, E> {
                match text {
                    "auto" => Ok(VoterCount(Voters::Auto)),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<VoterCount, E> {
                match number {
                    1 | 3 | 5 | 7 => Ok(VoterCount(Voters::Fixed(number as usize))),
                    other => Err(E::invalid_value(de::Unexpected::Signed(other), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused_and_says_what_can() {
        let check = |text: &str| {
            let store: Result<Store, _> = toml::from_str(text);
            store
                .map_err(|error| error.to_string())
                .and_then(|store| store.check().map_err(|(key, why)| key + " " + &why))
        };
        for good in
            ["", "voters = 5\nstandbys = 0", "voters = \"auto\"\netcd_listen = [\"127.0.0.1:2379\", \"[::1]:2379\"]"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("voters = 2", "1, 3, 5, 7"),
            ("voters = \"many\"", "auto"),
            ("standbys = 9", "store.standbys"),
            ("replace_after = \"2h\"", "1 s to 1 h"),
            ("retention = \"1s\"", "1 min to 30 days"),
            ("quota_bytes = 1", "store.quota_bytes"),
            ("etcd_listen = [\"0.0.0.0:2379\"]", "loopback"),
            ("leader = true", "unknown field"),
        ] {
            let error = check(bad).expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn the_defaults_are_written_as_they_are_read() {
        let text = toml::to_string(&Store::default()).expect("it is plain");
        let again: Store = toml::from_str(&text).expect("it was written by us");
        assert_eq!(toml::to_string(&again).expect("it is plain"), text);
    }
}

//! What is read of the daemons' answers, and what they are told: the few fields that Docker's API has had since version
//! 1.24 and that podman has too. All others are skipped.

use std::{collections::BTreeMap, path::Path};

use ringmesh_node::remedy::base;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    config::{Container, Docker},
    probe::heartbeat,
};

/// The agent that made a container.
pub(super) const INSTANCE_LABEL: &str = "ringmesh.instance";

/// The container's name in that agent's configuration.
pub(super) const NAME_LABEL: &str = "ringmesh.container";

/// The address that the agent gave it.
pub(super) const ADDRESS_LABEL: &str = "ringmesh.address";

/// Bytes after which a daemon begins another file of a container's log, and how many files it keeps.
const LOG_FILE: &str = "1048576";
const LOG_FILES: &str = "2";

/// The answer to `GET /containers/NAME/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspect {
    pub(super) id: String,
    pub(super) state: State,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) config: Config,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) network_settings: NetworkSettings,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct State {
    #[serde(default)]
    pub(super) status: String,
    #[serde(default)]
    pub(super) running: bool,
    #[serde(default)]
    pub(super) paused: bool,
    #[serde(default)]
    pub(super) pid: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Config {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NetworkSettings {
    #[serde(default, deserialize_with = "or_default")]
    networks: BTreeMap<String, Endpoint>,
}

#[derive(Debug, Default, Deserialize)]
struct Endpoint {
    #[serde(default, rename = "IPAddress")]
    address: String,
    #[serde(default, rename = "IPPrefixLen")]
    length: u8,
    #[serde(default, rename = "GlobalIPv6Address")]
    address_v6: String,
    #[serde(default, rename = "GlobalIPv6PrefixLen")]
    length_v6: u8,
}

impl Inspect {
    /// Whether the agent of this name made it.
    pub(super) fn is_of(&self, instance: &str) -> bool {
        self.config.labels.get(INSTANCE_LABEL).is_some_and(|label| label == instance)
    }

    /// Addresses with prefix length.
    pub(super) fn addresses(&self) -> Vec<String> {
        let own = self.config.labels.get(ADDRESS_LABEL).cloned();
        let of_daemon = self.network_settings.networks.values().flat_map(|endpoint| {
            let Endpoint { address, length, address_v6, length_v6 } = endpoint;
            let both = [(address, length), (address_v6, length_v6)];
            both.into_iter().filter(|(a, _)| !a.is_empty()).map(|(a, length)| format!("{a}/{length}"))
        });
        own.into_iter().chain(of_daemon).collect()
    }
}

/// One of the answer to `GET /containers/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
}

/// The answer to `POST /containers/create`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Created {
    pub(super) id: String,
}

/// A line of `GET /events`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Event {
    #[serde(default)]
    action: String,
    actor: Actor,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Actor {
    #[serde(default, deserialize_with = "or_default")]
    attributes: BTreeMap<String, String>,
}

impl Event {
    /// The container's name at the daemon, if it may have changed.
    pub(super) fn changed(mut self) -> Option<String> {
        // Daemons tell of every program that they run in a container, too.
        if self.action.starts_with("exec") || self.action.starts_with("health") {
            return None;
        }
        self.actor.attributes.remove("name")
    }
}

/// An answer that is not good.
#[derive(Debug, Deserialize)]
struct Refusal {
    message: String,
}

/// Reads an answer.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(bytes)
}

/// Why a daemon refused, in its own words.
pub(super) fn refusal(bytes: &[u8]) -> Option<String> {
    parse(bytes).ok().map(|Refusal { message }| message)
}

/// The body of `POST /containers/create`. `heartbeat` is the directory with the socket where its services speak up, if they do.
///
/// No restart policy: what to do after an end is decided elsewhere. A health check of the image is left as it is: podman takes
/// "none" for one, and tries to make a timer for it.
pub(super) fn create(
    container: &Container,
    docker: &Docker,
    image: &str,
    instance: &str,
    heartbeat: Option<&Path>,
) -> Value {
    let mut labels = BTreeMap::from([(INSTANCE_LABEL, instance), (NAME_LABEL, &container.name)]);
    let mut host = json!({
        "RestartPolicy": { "Name": "no" },
        "LogConfig": { "Type": "json-file", "Config": { "max-size": LOG_FILE, "max-file": LOG_FILES } },
    });
    if let Some(directory) = heartbeat {
        // A socket can be sent to where nothing can be written.
        let mount = json!({ "Type": "bind", "Source": directory, "Target": heartbeat::INSIDE, "ReadOnly": true });
        host["Mounts"] = json!([mount]);
    }
    if let Some(limit) = docker.memory_limit {
        host["Memory"] = limit.into();
    }
    if let Some(network) = &container.network {
        labels.insert(ADDRESS_LABEL, &network.address);
        host["NetworkMode"] = "none".into();
    } else if let Some(network) = &docker.network {
        host["NetworkMode"] = network.as_str().into();
    }
    let mut body = json!({
        "Image": image,
        "Env": docker.env,
        "Labels": labels,
        "HostConfig": host,
    });
    // The host has its own name in its own network. A clone has that of what it replaces.
    if docker.network.as_deref() != Some("host") {
        body["Hostname"] = base(&container.name).into();
    }
    if !docker.args.is_empty() {
        body["Cmd"] = docker.args.clone().into();
    }
    body
}

/// Daemons say null where they have nothing to say.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RUNNING: &str = r#"{ "Id": "8dfafdbc3a40", "Name": "/web.0a", "Created": "2024-01-01T00:00:00Z", "RestartCount": 0,
        "State": { "Status": "running", "Running": true, "Paused": false, "Pid": 1234, "Health": null },
        "Config": { "Labels": { "ringmesh.instance": "0a" }, "Env": null },
        "NetworkSettings": { "Networks": { "bridge": { "IPAddress": "172.17.0.4", "IPPrefixLen": 16,
            "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "IPAMConfig": null } } } }"#;

    #[test]
    fn what_counts_is_read_and_the_rest_skipped() {
        let inspect: Inspect = parse(RUNNING.as_bytes()).expect("as dockerd answers");
        assert!(inspect.is_of("0a") && !inspect.is_of("0b"));
        assert_eq!((inspect.state.pid, inspect.addresses()), (1234, vec!["172.17.0.4/16".to_owned()]));
        let bare = r#"{ "Id": "1", "State": { "Status": "created" }, "Config": { "Labels": null } }"#;
        let inspect: Inspect = parse(bare.as_bytes()).expect("nothing else is needed");
        assert!(!inspect.state.running && !inspect.is_of("") && inspect.addresses().is_empty());
        assert_eq!(refusal(br#"{"message":"no such container"}"#).as_deref(), Some("no such container"));
        let podmans = br#"{"cause":"no such process","message":"sending signal: no such process","response":500}"#;
        assert_eq!(refusal(podmans).as_deref(), Some("sending signal: no such process"));
        assert_eq!(refusal(b"404 page not found"), None);
    }

    #[test]
    fn programs_in_a_container_are_no_change_of_it() {
        let changed = |action: &str| {
            let line =
                format!(r#"{{"Type":"container","Action":"{action}","Actor":{{"Attributes":{{"name":"web"}}}}}}"#);
            parse::<Event>(line.as_bytes()).expect("as daemons say it").changed()
        };
        assert_eq!(changed("die").as_deref(), Some("web"));
        assert_eq!((changed("exec_start: true"), changed("health_status: healthy")), (None, None));
    }

    #[test]
    fn a_clone_finds_what_it_replaces_under_its_own_name() {
        let text =
            "name = \"web\"\n[docker]\nimage = \"busybox\"\n[network]\nbridge = \"br0\"\naddress = \"10.0.0.2/24\"\n";
        let container: Container = toml::from_str(text).expect("the keys are known");
        let clone = Container { name: "web.1".into(), ..container.clone() };
        let docker = container.docker.as_ref().expect("it is one");
        let body = create(&clone, docker, "busybox", "0a", Some(Path::new("/state/heartbeat/web")));
        assert_eq!((&body["Hostname"], &body["Labels"][NAME_LABEL]), (&"web".into(), &"web.1".into()));
        let mount =
            json!({ "Type": "bind", "Source": "/state/heartbeat/web", "Target": "/run/ringmesh", "ReadOnly": true });
        assert_eq!(body["HostConfig"]["Mounts"], json!([mount]));
        assert_eq!(create(&container, docker, "busybox", "0a", None)["HostConfig"]["Mounts"], Value::Null);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..512), cut in 0..RUNNING.len(), byte: u8) {
            let mut broken = RUNNING.as_bytes().to_vec();
            broken[cut] = byte;
            for bytes in [&bytes[..], &broken, &RUNNING.as_bytes()[..cut]] {
                let _ = parse::<Inspect>(bytes).map(|inspect| inspect.addresses());
                let _ = parse::<Event>(bytes).map(Event::changed);
                let _ = parse::<Vec<Listed>>(bytes);
                let _ = refusal(bytes);
            }
        }
    }
}

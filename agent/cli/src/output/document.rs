//! JSON and YAML: protobuf's canonical mapping with the names of the .proto files, defaults printed.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use ringmesh_proto::v1;
use serde::{Serialize, Serializer, ser::Error as _};

use crate::error::CliError;

/// A message of `ringmesh.v1`.
pub(crate) trait Message: prost::Message + Clone {
    /// Its name in the package.
    const NAME: &'static str;
}

macro_rules! messages {
    ($($name:ident),* $(,)?) => {
        $(impl Message for v1::$name { const NAME: &'static str = stringify!($name); })*
    };
}

messages!(
    Accusation,
    Arming,
    Cell,
    Certificate,
    Container,
    CreateTokenResponse,
    Event,
    GetConfigResponse,
    History,
    Host,
    Link,
    ListRingsResponse,
    MeshPath,
    Operation,
    RevokeHostResponse,
    Ring,
    RoundTrip,
    Service,
    Status,
    StoreMember,
    StoreStatus,
    WatchContainersResponse,
    WatchHostsResponse,
    WatchLinksResponse,
    WatchRingsResponse,
    WatchServicesResponse,
    WatchZonesResponse,
    Zone,
);

static POOL: LazyLock<Result<DescriptorPool, String>> =
    LazyLock::new(|| DescriptorPool::decode(v1::DESCRIPTORS).map_err(|error| error.to_string()));

/// A message that serializes as protobuf's JSON.
pub(crate) struct Canonical {
    name: &'static str,
    bytes: Vec<u8>,
}

impl Canonical {
    pub(crate) fn of<M: Message>(message: &M) -> Self {
        Self { name: M::NAME, bytes: message.encode_to_vec() }
    }
}

impl Serialize for Canonical {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pool = POOL.as_ref().map_err(S::Error::custom)?;
        let descriptor = pool
            .get_message_by_name(&format!("ringmesh.v1.{}", self.name))
            .ok_or_else(|| S::Error::custom(format!("no message {}", self.name)))?;
        let message = DynamicMessage::decode(descriptor, self.bytes.as_slice()).map_err(S::Error::custom)?;
        let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
        message.serialize_with_options(serializer, &options)
    }
}

/// One document, indented.
pub(crate) fn json(value: &impl Serialize) -> Result<String, CliError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| CliError::failed(&error))?;
    Ok(text + "\n")
}

/// One document on one line.
pub(crate) fn json_line(value: &impl Serialize) -> Result<String, CliError> {
    let text = serde_json::to_string(value).map_err(|error| CliError::failed(&error))?;
    Ok(text + "\n")
}

/// One document.
pub(crate) fn yaml(value: &impl Serialize) -> Result<String, CliError> {
    serde_yaml_ng::to_string(value).map_err(|error| CliError::failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_proto_files_and_defaults_are_printed() {
        let link = v1::Link { rtt_us: 7, state: v1::link::State::Degraded.into(), ..Default::default() };
        assert_eq!(
            json_line(&Canonical::of(&link)).expect("serializes"),
            "{\"name\":\"\",\"from\":\"\",\"to\":\"\",\"uplink\":\"\",\"role\":\"\",\"state\":\"degraded\",\
             \"rtt_us\":7,\"loss_percent\":0,\"pair_broken\":false,\"via\":\"\"}\n"
        );
        let service = v1::Service {
            last_change: Some(prost_types::Timestamp { seconds: 1_750_000_000, nanos: 0 }),
            last_latency: Some(prost_types::Duration { seconds: 0, nanos: 1_500_000 }),
            ..Default::default()
        };
        let text = yaml(&Canonical::of(&service)).expect("serializes");
        assert!(text.contains("last_change: 2025-06-15T15:06:40Z"), "{text}");
        assert!(text.contains("last_latency: 0.001500s") || text.contains("last_latency: 0.0015s"), "{text}");
    }

    #[test]
    fn an_unknown_enum_value_is_a_number() {
        let link = v1::Link { state: 99, ..Default::default() };
        assert!(json_line(&Canonical::of(&link)).expect("serializes").contains("\"state\":99"));
    }
}

//! What can be asked of a service, as the file has it: `exec`, `tcp`, `udp`, `icmp`, `http`, `grpc`, `inside`, and plans of them.
//!
//! Texts become a [`Check`], or the key and the words of what is wrong with them.

mod expect;
mod http;
mod inside;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ringmesh_node::health::spec::{Check, Exchange, Step as StepSpec};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::name;
pub use expect::Expect;
use expect::bytes;
pub use http::{Http, Json, Tls};
pub use inside::Inside;

/// For messages.
pub(super) const ONE_CHECK: &str = "exactly one of exec, tcp, udp, icmp, http, grpc and inside";

/// The most bytes that are sent: one datagram without fragments.
const MAX_SENT: usize = 1200;

/// The most steps of a plan.
const MAX_STEPS: usize = 16;

/// A key below that of the service, empty for itself, and what is wrong.
pub(super) type Wrong = (String, String);

/// The keys of which exactly one is there.
pub(super) struct Asked<'a> {
    pub(super) exec: &'a Option<Vec<String>>,
    pub(super) tcp: &'a Option<Tcp>,
    pub(super) udp: &'a Option<Udp>,
    pub(super) icmp: &'a Option<IpAddr>,
    pub(super) http: &'a Option<Http>,
    pub(super) grpc: &'a Option<Grpc>,
    pub(super) inside: &'a Option<Inside>,
}

impl Asked<'_> {
    /// The one that is there, if there is one.
    pub(super) fn check(&self) -> Result<Option<Check>, Wrong> {
        let exec = self.exec.as_ref().map(|argv| match argv[..] {
            [] => Err(("exec".to_owned(), "is empty; name a program".to_owned())),
            [..] => Ok(Check::Exec { argv: argv.clone() }),
        });
        let tcp = self.tcp.as_ref().map(Tcp::check);
        let udp = self.udp.as_ref().map(Udp::check);
        let icmp = self.icmp.map(|address| Ok(Check::Icmp { address }));
        let http = self.http.as_ref().map(|http| http.check().map(|check| Check::Http(Box::new(check))));
        let grpc = self
            .grpc
            .as_ref()
            .map(|Grpc { address, service }| Ok(Check::Grpc { address: *address, service: service.clone() }));
        let inside = self.inside.as_ref().map(Inside::check);
        let mut given = [exec, tcp, udp, icmp, http, grpc, inside].into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(_), Some(_)) => Err((String::new(), format!("needs {ONE_CHECK}"))),
            (check, _) => check.transpose(),
        }
    }
}

/// `tcp = "127.0.0.1:25"` or `tcp = { address = "127.0.0.1:25", send = "", expect = { prefix = "220 " } }`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tcp {
    /// As the container sees it.
    pub address: SocketAddr,
    /// Sent first, up to 1200 bytes. Default nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<String>,
    /// The same in hexadecimal digits, for what is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_hex: Option<String>,
    /// What the answer must be. Default: that the connection is accepted is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
}

impl Tcp {
    fn check(&self) -> Result<Check, Wrong> {
        let at = |(key, message): Wrong| (format!("tcp.{key}"), message);
        let send = bytes("send", &self.send, &self.send_hex, MAX_SENT).map_err(at)?.unwrap_or_default();
        let expect = self.expect.as_ref().map(|expect| expect.matching("expect")).transpose().map_err(at)?;
        if send.is_empty() && expect.is_none() {
            return Ok(Check::Tcp { address: self.address });
        }
        Ok(Check::Talk(Exchange { address: self.address, send, expect }))
    }
}

/// The table form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TcpTable {
    address: SocketAddr,
    send: Option<String>,
    send_hex: Option<String>,
    expect: Option<Expect>,
}

impl<'de> Deserialize<'de> for Tcp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TcpVisitor)
    }
}

struct TcpVisitor;

impl<'de> Visitor<'de> for TcpVisitor {
    type Value = Tcp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"ADDRESS:PORT\" or a table with `address`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Tcp, E> {
        let address = text.parse().map_err(|_| E::custom(format!("\"{text}\" is not ADDRESS:PORT")))?;
        Ok(Tcp { address, send: None, send_hex: None, expect: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Tcp, A::Error> {
        let TcpTable { address, send, send_hex, expect } = TcpTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Tcp { address, send, send_hex, expect })
    }
}

/// `udp = { address = "127.0.0.1:53", send_hex = "…", expect = { prefix_hex = "…" } }`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Udp {
    /// As the container sees it.
    pub address: SocketAddr,
    /// Up to 1200 bytes. Default an empty datagram.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<String>,
    /// The same in hexadecimal digits, for what is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_hex: Option<String>,
    /// What the answer must be. Default: any is right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
}

impl Udp {
    fn check(&self) -> Result<Check, Wrong> {
        let at = |(key, message): Wrong| (format!("udp.{key}"), message);
        let send = bytes("send", &self.send, &self.send_hex, MAX_SENT).map_err(at)?.unwrap_or_default();
        let expect = self.expect.as_ref().map(|expect| expect.matching("expect")).transpose().map_err(at)?;
        Ok(Check::Udp(Exchange { address: self.address, send, expect }))
    }
}

/// `grpc = { address = "127.0.0.1:9000", service = "" }`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grpc {
    /// As the container sees it.
    pub address: SocketAddr,
    /// Default empty: the server as a whole.
    #[serde(default)]
    pub service: String,
}

/// `[container.service.plan]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// For all steps together. 10 ms to 5 min, default 10 s.
    #[serde(
        default = "default_plan_timeout",
        with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required"
    )]
    pub timeout: Duration,
    /// 1 to 16.
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

/// `[[container.service.plan.step]]`: exactly one of `exec`, `tcp`, `udp`, `icmp`, `http`, `grpc` and `inside` is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Unique in its plan; as a host's name.
    pub name: String,
    /// An answer that took longer is wrong. Up to the plan's `timeout`; default none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional"
    )]
    pub max_latency: Option<Duration>,
    /// As in a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Vec<String>>,
    /// As in a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    /// As in a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<Udp>,
    /// As in a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<IpAddr>,
    /// As in a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// As in a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<Grpc>,
    /// As in a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Inside>,
}

impl Plan {
    /// Whether a member inside is asked.
    pub(super) fn asks_inside(&self) -> bool {
        self.steps.iter().any(|step| step.inside.is_some())
    }

    pub(super) fn check(&self) -> Result<Check, Wrong> {
        if !(Duration::from_millis(10)..=Duration::from_secs(300)).contains(&self.timeout) {
            return Err(("plan.timeout".into(), format!("{:?} is not within 10 ms to 5 min", self.timeout)));
        }
        if self.steps.is_empty() || self.steps.len() > MAX_STEPS {
            return Err(("plan.step".into(), format!("must be 1 to {MAX_STEPS} steps")));
        }
        let steps: Result<Vec<StepSpec>, Wrong> = self.steps.iter().map(|step| step.spec(self.timeout)).collect();
        let steps = steps?;
        for (nth, step) in steps.iter().enumerate() {
            if steps[..nth].iter().any(|other| other.name == step.name) {
                return Err((format!("plan.step.{}", step.name), "is there twice".into()));
            }
        }
        Ok(Check::Plan { steps, timeout: self.timeout })
    }
}

impl Step {
    fn spec(&self, timeout: Duration) -> Result<StepSpec, Wrong> {
        name("plan.step.name", &self.name)?;
        let key = format!("plan.step.{}", self.name);
        max_latency(self.max_latency, timeout).map_err(|message| (format!("{key}.max_latency"), message))?;
        let Self { exec, tcp, udp, icmp, http, grpc, inside, .. } = self;
        let check = Asked { exec, tcp, udp, icmp, http, grpc, inside }.check().map_err(|(field, message)| {
            (if field.is_empty() { key.clone() } else { format!("{key}.{field}") }, message)
        })?;
        let check = check.ok_or_else(|| (key, format!("needs {ONE_CHECK}")))?;
        Ok(StepSpec { name: self.name.clone(), check: Arc::new(check), max_latency: self.max_latency })
    }
}

/// Beyond the time limit it would have no meaning.
pub(super) fn max_latency(most: Option<Duration>, timeout: Duration) -> Result<(), String> {
    match most {
        Some(most) if most.is_zero() || most > timeout => {
            Err(format!("{most:?} is not within 1 ms to the time limit, {timeout:?}"))
        }
        Some(_) | None => Ok(()),
    }
}

fn default_plan_timeout() -> Duration {
    Duration::from_secs(10)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ringmesh_node::health::spec::Match;

    use crate::config::Config;

    /// A container whose one service has these lines.
    fn parse(service: &str) -> Result<Config, String> {
        let driver = match service.contains("inside") {
            true => "member = true\noci = { rootfs = \"/srv/rootfs\", args = [\"/bin/httpd\"] }",
            false => "declared = { netns = \"/run/netns/web\" }",
        };
        let text = format!(
            "[host]\nname = \"h1\"\n[uplink.a]\naddress = \"10.0.0.1\"\n[[container]]\nname = \"web\"\n\
             {driver}\n[[container.service]]\nname = \"s\"\n{service}"
        );
        Config::parse(Path::new("agent.toml"), &text).map_err(|error| error.to_string())
    }

    #[test]
    fn every_check_reads_back_the_same_and_becomes_what_it_says() {
        let cases = [
            ("exec = [\"true\"]", "exec", "true"),
            ("tcp = \"10.0.0.2:80\"", "tcp", "tcp://10.0.0.2:80"),
            ("tcp = { address = \"[::1]:25\", expect = { prefix = \"220 \" } }", "tcp", "tcp://[::1]:25"),
            ("udp = { address = \"10.0.0.2:53\", send_hex = \"00 ff\" }", "udp", "udp://10.0.0.2:53"),
            ("icmp = \"::1\"", "icmp", "icmp://::1"),
            (
                "http = { address = \"10.0.0.2:80\", method = \"POST\", body = \"x\", statuses = [200, 204] }",
                "http",
                "http://10.0.0.2:80/",
            ),
            (
                "http = { address = \"10.0.0.2:80\", json = { pointer = \"/a\", equals = 1 }, expect_headers = { server = {} } }",
                "http",
                "http://10.0.0.2:80/",
            ),
            ("http = { address = \"10.0.0.2:443\", tls = { insecure = true } }", "https", "https://10.0.0.2:443/"),
            ("grpc = { address = \"10.0.0.2:90\" }", "grpc", "grpc://10.0.0.2:90/"),
            ("heartbeat = { ttl = \"30s\" }", "heartbeat", "/var/lib/ringmesh/heartbeat/web/heartbeat"),
            ("inside = { unix = \"/run/a\", send = \"x\", expect = { exact = \"y\" } }", "inside", "unix:///run/a"),
            ("inside = { unix = \"@a\", http = \"/healthz\" }", "inside", "unix://@a"),
            ("inside = { tcp = \"127.0.0.1:80\" }", "inside", "tcp://127.0.0.1:80"),
            ("inside = { file = \"/tmp/alive\", max_age = \"30s\" }", "inside", "file:///tmp/alive"),
            (
                "plan = { step = [{ name = \"a\", icmp = \"::1\" }, { name = \"b\", exec = [\"true\"] }] }",
                "plan",
                "a, b",
            ),
            ("plan = { step = [{ name = \"a\", inside = { file = \"/a\" } }] }", "plan", "a"),
        ];
        for (service, kind, target) in cases {
            let config = parse(service).unwrap_or_else(|error| panic!("{service}: {error}"));
            let check = &config.container_specs()[0].services[0].check;
            assert_eq!((check.kind(), check.target().as_str()), (kind, target), "{service}");
            let text = config.to_toml();
            let again = Config::parse(Path::new("agent.toml"), &text).expect("our own output is valid");
            assert_eq!((&again.container_specs(), &again.to_toml()), (&config.container_specs(), &text), "{service}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_its_key() {
        let cases = [
            ("", "s: needs exactly one of exec, tcp, udp, icmp, http, grpc and inside, heartbeat or a plan"),
            ("exec = []", "s.exec: is empty"),
            ("tcp = \"10.0.0.2\"", "\"10.0.0.2\" is not ADDRESS:PORT"),
            ("tcp = { address = \"10.0.0.2:1\", sends = \"x\" }", "unknown field `sends`"),
            ("tcp = { address = \"10.0.0.2:1\", expect = {} }", "s.tcp.expect: needs exactly one of"),
            ("tcp = { address = \"10.0.0.2:1\", send_hex = \"0\" }", "s.tcp.send_hex: needs pairs"),
            (
                "udp = { address = \"10.0.0.2:1\", send = \"a\", send_hex = \"00\" }",
                "s.udp.send: and send_hex are the same",
            ),
            (
                "udp = { address = \"10.0.0.2:1\", expect = { regex = \"(\" } }",
                "s.udp.expect.regex: is no regular expression: unclosed group",
            ),
            ("icmp = \"localhost\"", "invalid IP address"),
            ("http = { address = \"10.0.0.2:1\", path = \"a\" }", "s.http.path: must start with '/'"),
            ("http = { address = \"10.0.0.2:1\", status = [300, 200] }", "s.http.status: must be two statuses"),
            (
                "http = { address = \"10.0.0.2:1\", status = [200, 200], statuses = [201] }",
                "s.http.statuses: and status are the same",
            ),
            (
                "http = { address = \"10.0.0.2:1\", method = \"get\" }",
                "s.http.method: must be 1 to 16 upper case letters",
            ),
            ("http = { address = \"10.0.0.2:1\", redirects = 6 }", "s.http.redirects: 6 is not within 0 to 5"),
            (
                "http = { address = \"10.0.0.2:1\", headers = { Connection = \"x\" } }",
                "s.http.headers.Connection: is no header that can be set",
            ),
            (
                "http = { address = \"10.0.0.2:1\", headers = { A = \"x\\r\\ny\" } }",
                "s.http.headers.A: holds a control character",
            ),
            (
                "http = { address = \"10.0.0.2:1\", tls = {} }",
                "s.http.tls: needs exactly one of ca and insecure = true",
            ),
            (
                "http = { address = \"10.0.0.2:1\", tls = { ca = \"ca.pem\" } }",
                "s.http.tls.ca: must be an absolute path",
            ),
            (
                "http = { address = \"10.0.0.2:1\", tls = { name = \"a b\", insecure = true } }",
                "s.http.tls.name: \"a b\" is no name of a server",
            ),
            (
                "http = { address = \"10.0.0.2:1\", json = { pointer = \"a\", equals = 1 } }",
                "s.http.json.pointer: must be empty or start with '/'",
            ),
            (
                "http = { address = \"10.0.0.2:1\", json = { pointer = \"/a\", equals = [] } }",
                "s.http.json.equals: must be text",
            ),
            ("max_latency = \"2s\"\nicmp = \"::1\"", "s.max_latency: 2s is not within 1 ms to the time limit, 1s"),
            ("inside = {}", "s.inside.unix: needs exactly one of unix, tcp and file"),
            ("inside = { unix = \"/a\", file = \"/a\" }", "s.inside.unix: needs exactly one of"),
            ("inside = { unix = \"a\" }", "s.inside.unix: must be an absolute path or \"@NAME\""),
            ("inside = { unix = \"/a\", max_age = \"3s\" }", "s.inside.max_age: has a meaning only with file"),
            ("inside = { file = \"a\" }", "s.inside.file: must be an absolute path"),
            ("inside = { file = \"/a\", max_age = \"3ms\" }", "s.inside.max_age: is not within 1 s to 365 d"),
            ("inside = { file = \"/a\", http = \"/\" }", "s.inside.file: goes with no http, send or expect"),
            ("inside = { unix = \"@a\", http = \"/\", send = \"x\" }", "s.inside.http: goes with no send or expect"),
            ("inside = { unix = \"@a\", http = \"a b\" }", "s.inside.http: must start with '/'"),
            ("kind = \"ready\"\nicmp = \"::1\"", "unknown variant `ready`"),
            ("heartbeat = { ttl = \"10ms\" }", "s.heartbeat.ttl: 10ms is not within"),
            ("icmp = \"::1\"\nheartbeat = { ttl = \"10s\" }", "s.heartbeat: goes with no other check"),
            ("plan = { step = [] }", "s.plan.step: must be 1 to 16 steps"),
            ("plan = { step = [{ name = \"a\" }] }", "s.plan.step.a: needs exactly one of"),
            ("plan = { step = [{ name = \"A\", icmp = \"::1\" }] }", "plan.step.name: \"A\" is no name"),
            (
                "plan = { step = [{ name = \"a\", icmp = \"::1\" }, { name = \"a\", icmp = \"::1\" }] }",
                "s.plan.step.a: is there twice",
            ),
            (
                "interval = \"1s\"\nplan = { timeout = \"2s\", step = [{ name = \"a\", icmp = \"::1\" }] }",
                "s.plan.timeout: 2s is more than the interval, 1s",
            ),
        ];
        for (service, expected) in cases {
            let error = parse(service).expect_err(service);
            assert!(error.contains(expected), "{service}: {error}");
            assert!(!error.contains('\n'), "one line: {error}");
        }
    }

    #[test]
    fn bytes_can_be_written_in_hexadecimal_digits() {
        let config =
            parse("udp = { address = \"10.0.0.2:1\", send_hex = \"00 fF\", expect = { prefix_hex = \"0a\" } }");
        let specs = config.expect("it is valid").container_specs();
        let super::Check::Udp(exchange) = &*specs[0].services[0].check else { panic!("it is UDP") };
        assert_eq!((&exchange.send[..], &exchange.expect), (&[0, 255][..], &Some(Match::Prefix(vec![10]))));
    }

    #[test]
    fn what_is_sent_is_kept_from_those_who_look() {
        let config = parse(
            "http = { address = \"10.0.0.2:1\", headers = { Authorization = \"Bearer x7\" }, body = \"x7\" }\n\
             plan = { step = [{ name = \"a\", http = { address = \"10.0.0.2:1\", headers = { Cookie = \"x7\" } } }] }",
        );
        let shown = config.expect("it is valid").without_secrets().to_toml();
        assert!(shown.contains("Authorization = \"(hidden)\"") && !shown.contains("x7"), "{shown}");
    }
}

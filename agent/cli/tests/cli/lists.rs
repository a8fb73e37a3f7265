//! Lists, single objects and documents, word for word.

use crate::{
    fake::{Agent, Manner},
    run::{asking, command, finish, good},
};

/// 2026-01-02T03:04:05Z
const AT: i64 = 1_767_323_045;

#[test]
fn host_list() {
    let agent = Agent::start(Manner::default());
    assert_eq!(
        good(&agent, &["host", "list"]),
        "\
NAME  STATE  UPLINK-A  UPLINK-B  CONTAINERS  SERVICES  SCORE  ZONE     SINCE
h1    alive  up        degraded  4/4         7/8       97     default  3m
h2    alive  up        degraded  4/4         7/8       97     default  3m
h10   down   down      degraded  4/4         7/8       97     default  3m
"
    );
    let wide = good(&agent, &["host", "ls", "-o", "wide"]);
    assert!(
        wide.lines().next().is_some_and(|header| header.ends_with("VERSION  HEARD  ACCUSERS  RACK  RTT-ESTIMATE")),
        "{wide}"
    );
    assert!(wide.contains("10.77.0.10:7400") && wide.contains("h1,h4"), "{wide}");
    assert!(wide.lines().all(|line| line.trim_end() == line), "{wide}");
}

#[test]
fn zone_list_and_show() {
    let agent = Agent::start(Manner::default());
    assert_eq!(
        good(&agent, &["zone", "list"]),
        "\
NAME  STATE        HOSTS  DOWN  CONTAINERS  SERVICES  SCORE  DELEGATES  HEARD  SINCE
east  reachable    4/5    1     16/20       15/20     0      h1,h2      3m     3m
west  unreachable  4/5    1     16/20       15/20     0      h1,h2      3m     3m
"
    );
    let shown = good(&agent, &["zone", "show", "west"]);
    assert!(shown.contains("unreachable") && shown.contains("h2 (00000002) at 10.77.0.2:7400"), "{shown}");
    let ran = finish(asking(&agent, &["zone", "show", "north"]));
    assert_eq!(ran.err, "error: there is no zone \"north\": see `ringmesh zone list`\n");
}

#[test]
fn cell_list_and_show() {
    let agent = Agent::start(Manner::default());
    assert_eq!(
        good(&agent, &["cell", "list", "--on", "h1"]),
        "\
HOST  NUMBER  SERVICE  MEMBERS  ALIVE  SUSPECT  DOWN  FROZEN
h1    0       -        2        1      0        1     0
h1    1       -        2        1      0        1     0
"
    );
    assert_eq!(agent.asked(), [r#"ListCellsRequest { host: "h1", zone: "" }"#]);
    let shown = good(&agent, &["cell", "show", "h1/1"]);
    assert!(shown.contains("web: alive, slot 1, generation 2"), "{shown}");
    assert!(shown.contains("db: down, silent for 3m, slot 2, generation 2"), "{shown}");
    let ran = finish(asking(&agent, &["cell", "show", "h1/7"]));
    assert_eq!(ran.err, "error: no host has cell \"h1/7\": see `ringmesh cell list`\n");
    let ran = finish(asking(&agent, &["cell", "show", "h1"]));
    assert!(ran.err.contains("expected HOST/NUMBER"), "{}", ran.err);
}

#[test]
fn a_list_may_be_of_one_zone_and_then_cannot_be_watched() {
    let agent = Agent::start(Manner::default());
    good(&agent, &["host", "list", "--zone", "east"]);
    assert_eq!(agent.asked(), [r#"ListHostsRequest { zone: "east" }"#]);
    let ran = finish(asking(&agent, &["host", "list", "--zone", "east", "--watch"]));
    assert!(ran.err.contains("cannot be used with"), "{}", ran.err);
}

#[test]
fn host_list_as_json() {
    let agent = Agent::start(Manner { at: Some(AT), ..Manner::default() });
    let text = good(&agent, &["-o", "json", "host", "list"]);
    let first = r#"[
  {
    "name": "h1",
    "id": "00000001",
    "state": "alive",
    "uplinks": {
      "a": "up",
      "b": "degraded",
      "no_carrier_a": false,
      "no_carrier_b": false,
      "order": "better"
    },
    "zone": "default",
    "address": "10.77.0.1:7400",
    "address_b": "10.77.1.1:7400",
    "generation": 4,
    "version": "0.1.0",
    "since": "2026-01-02T03:04:05Z",
    "heard_at": "2026-01-02T03:04:05Z",
    "digest": {
      "containers": 4,
      "running": 4,
      "services": 8,
      "passing": 7,
      "warning": 0,
      "critical": 1,
      "unverified": 0,
      "score": 97,
      "worst": "critical"
    },
    "accusations": [],
    "local": true,
    "rack": "r1",
    "coordinate": {
      "position_us": [
        -120,
        33,
        0
      ],
      "height_us": 45,
      "adjustment_us": -7,
      "error_permille": 83
    },
    "rtt_estimate_us": 0,
    "chords": "rack-aware:2",
    "disk_problem": "",
    "drained": false
  },
"#;
    assert!(text.starts_with(first), "{text}");
    let hosts: serde_json::Value = serde_json::from_str(&text).expect("one document");
    assert_eq!(hosts[2]["accusations"][1]["accuser"], "h4");
    assert_eq!(hosts.as_array().map(Vec::len), Some(3));
}

#[test]
fn services_as_yaml_and_as_tables() {
    let agent = Agent::start(Manner { at: Some(AT), ..Manner::default() });
    assert_eq!(
        good(&agent, &["service", "list", "-o", "yaml"]),
        "\
- name: http
  container: web
  host: h1
  verdict: critical
  probe:
    kind: http
    target: http://10.1.3.2:8080/
    interval: 2s
    timeout: 0.500s
    threshold_up: 1
    threshold_down: 3
    alarms_at_once: false
  last_change: 2026-01-02T03:04:05Z
  last_answer: \"connection refused\\e[2J\"
  last_latency: 0.001240s
  last_probe: 2026-01-02T03:04:05Z
  weight: 1
  tenant: acme
  labels: {}
  kind: liveness
  flapping: false
  slow: false
"
    );
    let agent = Agent::start(Manner::default());
    assert_eq!(
        good(&agent, &["service", "list"]),
        "\
NAME  CONTAINER  HOST  VERDICT   PROBE  LATENCY  CHANGED
http  web        h1    critical  http   1.2ms    3m
"
    );
    let shown = good(&agent, &["service", "show", "h1/web/http"]);
    assert!(shown.contains("Verdict:     critical\n"), "{shown}");
    assert!(shown.contains("Answer:      connection refused\\u{1b}[2J\n"), "no control codes: {shown}");
    assert!(
        agent
            .asked()
            .last()
            .is_some_and(|asked| asked.contains(r#"GetServiceRequest { name: "http", container: "web", host: "h1" }"#))
    );
}

#[test]
fn pages_are_one_list() {
    let agent = Agent::start(Manner { pages: 12, ..Manner::default() });
    let table = good(&agent, &["container", "list"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "NAME  HOST  TENANT  STATE    VERDICT  SCORE  SERVICES  AGE");
    assert_eq!(lines[12], "c11   h1    acme    running  passing  100    1         3m");
    assert_eq!((lines.len(), agent.asked().len()), (13, 12));
    let json = good(&agent, &["container", "list", "-o", "json"]);
    let list: Vec<serde_json::Value> = serde_json::from_str(&json).expect("one array");
    assert_eq!((list.len(), &list[11]["name"]), (12, &serde_json::Value::from("c11")));
    assert!(json.starts_with("[\n  {\n    \"name\": \"c0\"") && json.ends_with("\n  }\n]\n"), "{json}");
    assert_eq!(json.matches("\n  },\n  {\n").count(), 11, "as if it had come at once");
    let yaml = good(&agent, &["container", "list", "-o", "yaml"]);
    assert_eq!(yaml.lines().filter(|line| line.starts_with("- ")).count(), 12, "{yaml}");
}

#[test]
fn the_history_of_a_service() {
    let agent = Agent::start(Manner::default());
    let text = good(&agent, &["service", "history", "web/http", "--on", "h1"]);
    for part in [
        "Verdict:     critical\n",
        "Newest:      ▁█×  3 probes since 3m ago, 1 failed\n",
        "SINCE   PASSED  FAILED  P50  P90   P99\n3m ago  2       1       2ms  16ms  16ms\n",
        "LAST  FIRST  TIMES  PROBE   ANSWER\n3m    3m     1      failed  HTTP 503\n",
        "passing to critical  HTTP 503\\u{1b}[2J\n",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let asked = r#"GetHistoryRequest { service: "http", container: "web", host: "h1" }"#;
    assert_eq!(agent.asked(), [asked]);
    let json = good(&agent, &["service", "history", "http", "--container", "web", "-o", "json"]);
    let history: serde_json::Value = serde_json::from_str(&json).expect("one document");
    assert_eq!(history["changes"][0]["kind"], "verdict");
    assert_eq!(history["outcomes"][1]["latency"], "0.016s");
}

#[test]
fn containers_by_label() {
    let agent = Agent::start(Manner::default());
    let args = ["container", "list", "-l", "tier=web", "-l", "zone=b=c", "--on", "h1"];
    assert_eq!(
        good(&agent, &args),
        "\
NAME  HOST  TENANT  STATE    VERDICT  SCORE  SERVICES  AGE
db    h1    acme    running  passing  100    1         3m
web   h1    acme    running  passing  100    1         3m
web   h2    acme    running  passing  100    1         3m
"
    );
    let asked = &agent.asked()[0];
    let filters =
        r#"ListContainersRequest { host: "h1", labels: {"tier": "web", "zone": "b=c"}, zone: "", verdicts: []"#;
    assert!(asked.starts_with(filters), "{asked}");
    let fields = r#"paths: ["tenant", "state", "verdict", "score", "services", "started_at"]"#;
    assert!(asked.contains(fields), "a table asks for what it shows: {asked}");
    good(&agent, &["service", "list", "-l", "a=b", "--container", "web", "--verdict", "critical", "-o", "json"]);
    let filters = r#"ListServicesRequest { host: "", container: "web", labels: {"a": "b"}, zone: "", verdicts: [Critical], fields: None"#;
    assert!(agent.asked()[1].starts_with(filters), "{}", agent.asked()[1]);
    let shown = good(&agent, &["container", "show", "h2/web"]);
    assert!(shown.starts_with("Name:       web\nHost:       h2\n"), "{shown}");
}

#[test]
fn what_is_missing_is_said_aside() {
    let agent = Agent::start(Manner { missing: true, ..Manner::default() });
    for args in [&["container", "list"][..], &["container", "list", "-o", "json"]] {
        let ran = finish(asking(&agent, args));
        assert_eq!(ran.code, 0);
        assert_eq!(ran.err, "h3 did not answer: timed out after 500 ms; its containers are missing\n");
        assert!(!ran.out.contains("h3"), "{}", ran.out);
    }
}

#[test]
fn empty_lists() {
    let agent = Agent::start(Manner { empty: true, ..Manner::default() });
    for (noun, plural) in [
        ("host", "hosts"),
        ("link", "links"),
        ("container", "containers"),
        ("service", "services"),
        ("event", "events"),
    ] {
        let ran = finish(asking(&agent, &[noun, "list"]));
        assert_eq!((ran.code, ran.out, ran.err), (0, String::new(), format!("no {plural}\n")));
        assert_eq!(good(&agent, &[noun, "list", "-o", "json"]), "[]\n");
    }
}

#[test]
fn why() {
    let agent = Agent::start(Manner::default());
    assert_eq!(good(&agent, &["host", "why", "h1"]), "nobody accuses h1; its state is alive\n");
    let text = good(&agent, &["host", "why", "h10"]);
    let (first, table) = text.split_once('\n').expect("lines");
    assert!(first.starts_with("h10 is down since 20") && first.ends_with("Z (3m ago): 2 hosts accuse it"), "{first}");
    assert_eq!(
        table,
        "\
ACCUSER  AGE  GENERATION  EVIDENCE
h1       3m   4           no answer on uplink a for 1500 ms
h4       3m   4           no answer on uplink a for 1500 ms
"
    );
    let json = good(&agent, &["host", "why", "h10", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("one document");
    assert_eq!(json["state"], "down");
    assert_eq!(json["accusations"][0]["evidence"], "no answer on uplink a for 1500 ms");

    let ran = finish(asking(&agent, &["host", "why", "h9"]));
    assert_eq!(ran.code, 4);
    assert_eq!(ran.err, "error: no host is named h9: see `ringmesh host list`\n");
    let shown = good(&agent, &["host", "show", "h10"]);
    assert!(shown.contains("Accused by:  h4: no answer on uplink a for 1500 ms\n"), "{shown}");
}

#[test]
fn rings_and_links() {
    let agent = Agent::start(Manner::default());
    assert_eq!(
        good(&agent, &["ring", "show"]),
        "\
ring a  switched, 3 hosts: 2 links up, 1 down, 210µs
  ╭─ h1 ─ 210µs ─ h2 ─╳─ h10 ─ 210µs ──╮
  ╰────────────────────────────────────╯

ring b  switched, 3 hosts: 1 link up, 2 not measured, 210µs
  ╭─ h1 ─ 210µs ─ h10 ┄┄┄ h2 ┄┄┄─╮
  ╰──────────────────────────────╯

not up
  h2 to h10 over a: down, 0 % lost; the two do not hear each other, messages go by h1
"
    );
    let json = good(&agent, &["ring", "show", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("one document");
    assert_eq!(json["rings"][0]["hosts"][2], "h10");
    assert_eq!(json["links"][1]["state"], "down");
    assert_eq!(
        good(&agent, &["link", "list", "--on", "h1"]),
        "\
FROM  TO   UPLINK  ROLE    STATE  RTT    LOSS  VIA  NOTE
h1    h2   a       ring-a  up     210µs  0%    -    -
h1    h10  b       ring-b  up     210µs  0%    -    -
h2    h10  a       ring-a  down   210µs  0%    h1   -
h10   h1   a       ring-a  up     210µs  0%    -    -
"
    );
}

#[test]
fn round_trips_of_any_two_hosts() {
    let agent = Agent::start(Manner::default());
    let rtt = |to| good(&agent, &["host", "rtt", "h1", to]);
    assert_eq!(rtt("h2"), "h1 to h2: about 1.2ms, give or take 9 %; a link between them measures 1.1ms\n");
    assert_eq!(rtt("h3"), "h1 to h3: about 1.2ms, give or take 9 %; there is no link between them\n");
    let unsure = "h1 to h10: about 1.2ms, not measured enough yet to be sure; there is no link between them\n";
    assert_eq!(rtt("h10"), unsure);
    assert_eq!(rtt("h1"), "h1 to itself: no round trip\n");
    let json: serde_json::Value =
        serde_json::from_str(&good(&agent, &["host", "rtt", "h1", "h2", "-o", "json"])).expect("one document");
    assert_eq!((json["estimate_us"].as_u64(), json["error_permille"].as_u64()), (Some(1240), Some(83)));
    let ran = finish(asking(&agent, &["host", "rtt", "h1", "h9"]));
    assert_eq!((ran.code, ran.err.as_str()), (4, "error: there is no host \"h9\": see `ringmesh host list`\n"));

    let shown = good(&agent, &["host", "show", "h2"]);
    for line in [
        "Rack:        r0\n",
        "Chords:      rack-aware:2\n",
        "Coordinate:  (-120, 33, 0) µs, height 45 µs, adjustment -7 µs, error 8.3 %\n",
        "Round trip:  about 1.2ms\n",
    ] {
        assert!(shown.contains(line), "{line}{shown}");
    }
    assert!(!good(&agent, &["host", "show", "h1"]).contains("Round trip"), "of itself it estimates nothing");
    let wide = good(&agent, &["host", "list", "-o", "wide"]);
    assert!(wide.lines().any(|line| line.starts_with("h2 ") && line.ends_with("r0    1.2ms")), "{wide}");
}

#[test]
fn ring_path() {
    let agent = Agent::start(Manner::default());
    assert_eq!(
        good(&agent, &["ring", "path", "h1", "h10", "--avoid", "h3"]),
        "\
h1 to h10: 2 links, 2.1ms
FROM  TO   UPLINK  ROLE    STATE     RTT    LOSS
h1    h2   a       ring-a  up        210µs  0%
h2    h10  a       chord   degraded  1.9ms  25%
"
    );
    assert_eq!(agent.asked(), [r#"GetPathRequest { from: "h1", to: "h10", avoid: ["h3"] }"#]);
    assert_eq!(good(&agent, &["ring", "path", "h1", "h1"]), "h1 to itself: no link\n");
    let json: serde_json::Value =
        serde_json::from_str(&good(&agent, &["ring", "path", "h1", "h10", "-o", "json"])).expect("one document");
    assert_eq!((json["links"][1]["role"].as_str(), json["rtt_us"].as_u64()), (Some("chord"), Some(2110)));
    let ran = finish(asking(&agent, &["ring", "path", "h1", "h10", "--avoid", "h2", "--avoid", "h3"]));
    assert_eq!(ran.code, 4);
    let why = "no path leads from h1 to h10: too few links are up besides those to avoid";
    assert_eq!(ran.err, format!("error: {why}: see `ringmesh host list` and `ringmesh link list`\n"));
}

#[test]
fn link_force() {
    let agent = Agent::start(Manner::default());
    for (args, asked) in [
        (["link", "force", "h1", "b", "--manual"].as_slice(), "uplink: \"b\", manual: true"),
        (&["link", "force", "h1", "none"], "uplink: \"none\", manual: false"),
    ] {
        assert_eq!(good(&agent, args), "");
        assert!(agent.asked().last().is_some_and(|last| last.contains("host: \"h1\"") && last.contains(asked)));
    }
}

#[test]
fn events() {
    let agent = Agent::start(Manner { at: Some(AT), ..Manner::default() });
    let args = ["event", "list", "--limit", "2", "--on", "h3", "--kind", "host-down"];
    assert_eq!(
        good(&agent, &args),
        "\
TIME                      SEVERITY  KIND       ABOUT  TEXT
2026-01-02T03:02:26.000Z  critical  host-down  h3     h3 is down, event 1
2026-01-02T03:02:27.000Z  critical  host-down  h3     h3 is down, event 2
"
    );
    assert_eq!(agent.asked(), [r#"ListEventsRequest { limit: 2, host: "h3", kind: "host-down", zone: "" }"#]);
    let json = good(&agent, &["event", "list", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("one document");
    assert_eq!(json[1]["accusers"][1], "h4");
    assert_eq!(json[0]["severity"], "critical");
}

#[test]
fn the_agent_itself() {
    let agent = Agent::start(Manner { at: Some(AT), ..Manner::default() });
    assert_eq!(good(&agent, &["config", "show"]), "[host]\nname = \"h1\"\n");
    assert_eq!(good(&agent, &["version"]), "ringmesh 0.1.0\nagent    0.1.0 (h1, pid 42)\n");
    let json = good(&agent, &["version", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("one document");
    assert_eq!((json["client"].as_str(), json["agent"]["pid"].as_u64()), (Some("0.1.0"), Some(42)));

    let ran = finish(asking(&agent, &["token", "create", "--ttl", "1h 30m", "--uses", "2"]));
    assert_eq!((ran.code, ran.out.as_str()), (0, "rm1_secret\n"));
    assert!(ran.err.starts_with("For 2 hosts until 2026-01-02T03:04:05.000Z: run `ringmesh join"), "{}", ran.err);
    let ttl = "CreateTokenRequest { ttl: Some(Duration { seconds: 5400, nanos: 0 }), uses: 2 }";
    assert_eq!(agent.asked().last().map(String::as_str), Some(ttl));

    let ran = finish(asking(&agent, &["leave"]));
    assert_eq!((ran.code, ran.err.as_str()), (0, "h1 leaves the cluster and its agent ends\n"));
    assert_eq!(agent.asked().last().map(String::as_str), Some("LeaveRequest"));
}

#[test]
fn completion_and_help() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = finish(command(&["completion", shell]));
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert!(ran.out.contains("container") && ran.out.contains("ringmesh"), "{shell}");
        assert!(!ran.out.contains("oci-shim") && !ran.out.contains("exec-runner"), "hidden is hidden");
    }
    let help = finish(command(&["--help"]));
    assert_eq!(help.code, 0);
    for later in ["vrf", "evpn", "bgp", "apply", "drain", "oci-shim"] {
        assert!(!help.out.contains(later), "{later} is not there yet");
    }
    assert!(help.out.contains("Exit status:") && help.out.contains("ringmesh lab up"));
}

#[test]
fn operations_and_orders() {
    let agent = Agent::start(Manner::default());
    assert_eq!(
        good(&agent, &["operation", "list", "--open", "--container", "web"]),
        "\
ID             KIND               STATE     HOST  CONTAINER  AGE  BY      WHY
0000002a-3-17  restart_container  proposed  h1    web        3m   repair  http: connection refused
"
    );
    let asked = r#"ListOperationsRequest { host: "", container: "web", open: true, zone: "" }"#;
    assert_eq!(agent.asked()[0], asked);
    let restarted = good(&agent, &["container", "restart", "h1/web", "--reason", "old", "--no-wait", "-o", "json"]);
    let restarted: serde_json::Value = serde_json::from_str(&restarted).expect("one document");
    assert_eq!((&restarted["state"], &restarted["rung"]), (&"running".into(), &2.into()));
    let asked = agent.asked().pop().expect("it was asked");
    assert!(
        asked.contains(r#"RestartContainer, container: "web", host: "h1", service: "", reason: "old", lasts: None"#),
        "{asked}"
    );
    good(&agent, &["container", "freeze", "web", "--for", "2h", "--no-wait"]);
    let asked = agent.asked().pop().expect("it was asked");
    assert!(asked.contains("Freeze") && asked.contains("seconds: 7200"), "{asked}");

    // Who waits gets the outcome as the exit status.
    let ran = finish(asking(&agent, &["container", "restart", "web", "--wait"]));
    assert_eq!(ran.code, 1);
    assert_eq!(ran.err, "error: operation 0000002a-3-17 failed: it is not well in time\n");
    assert!(ran.out.contains("Rung:            2, attempt 1"), "{}", ran.out);

    assert_eq!(good(&agent, &["disarm", "--reason", "work"]), "the cluster is disarmed: freeze, by root on h1: work\n");
    assert_eq!(good(&agent, &["arm"]), "the cluster is armed\n");
    good(&agent, &["host", "drain", "h2", "--no-wait"]);
    let asked = agent.asked().pop().expect("it was asked");
    assert!(asked.contains(r#"kind: Drain, host: "h2""#), "{asked}");
}

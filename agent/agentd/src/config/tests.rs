use super::*;

const GOOD: &str = r#"
[host]
name = "h1"
[uplink.a]
address = "10.0.0.1"
[uplink.b]
address = "10.0.1.1"
[[container]]
name = "web"
oci = { rootfs = "/srv/rootfs", args = ["/bin/httpd"] }
network = { bridge = "br0", address = "10.1.0.2/24", gateway = "10.1.0.1" }
[[container.service]]
name = "http"
interval = "2s"
http = { address = "127.0.0.1:8080" }
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("agent.toml"), text)
}

#[test]
fn what_is_printed_reads_back_the_same() {
    let config = parse(GOOD).expect("the sample is valid");
    assert_eq!(config.containers[0].services[0].timeout, Duration::from_secs(1));
    let text = config.to_toml();
    assert_eq!(parse(&text).expect("our own output is valid").to_toml(), text);
}

#[test]
fn the_first_application_that_matches_says_what_a_score_means() {
    let applications = "
[[application]]
match = { tier = \"db\" }
warning_below = 100
critical_below = 100
[[application]]
match = { tier = \"web\", size = \"big\" }
warning_below = 90
critical_below = 50
[[application]]
match = {}
warning_below = 80
critical_below = 20
";
    let limits = |labels: &str| {
        let text = GOOD.replace("name = \"web\"", &format!("name = \"web\"\nlabels = {labels}")) + applications;
        parse(&text).expect("it is valid").container_specs()[0].score.map(|score| score.warning_below)
    };
    assert_eq!(limits("{ tier = \"web\", size = \"big\", a = \"b\" }"), Some(90));
    assert_eq!(limits("{ tier = \"web\" }"), Some(80));
    assert_eq!(limits("{ tier = \"db\" }"), Some(100));
    assert_eq!(parse(GOOD).expect("it is valid").container_specs()[0].score, None);
}

#[test]
fn a_template_with_a_key_that_nobody_knows_is_refused_by_its_line() {
    for (from, to, unknown) in [
        ("args = [", "command = \"x\", args = [", "command"),
        ("bridge = \"br0\"", "bridge = \"br0\", mtu = 9000", "mtu"),
        ("rootfs = ", "Rootfs = \"/\", rootfs = ", "Rootfs"),
        ("[[container.service]]", "[[container.service]]\nrestarts = 3", "restarts"),
        (
            "[[container]]",
            "[[container]]\nname = \"x\"\ndocker = { image = \"busybox\", volumes = [] }\n[[container]]",
            "volumes",
        ),
        ("[[container]]", "[[container]]\nimage = \"x\"", "image"),
    ] {
        let error = parse(&GOOD.replacen(from, to, 1)).expect_err(to).to_string();
        assert!(
            error.starts_with("agent.toml:") && error.contains(&format!("unknown field `{unknown}`")),
            "{to}: {error}"
        );
    }
}

#[test]
fn tables_for_labels_that_no_container_has_are_odd() {
    let labels = GOOD.replacen("name = \"web\"", "name = \"web\"\nlabels = { app = \"shop\", tier = \"a\" }", 1);
    let tables = |app: &str| {
        let limits = "warning_below = 80\ncritical_below = 50";
        format!("{labels}\n[[application]]\nmatch = {{ {app} }}\n{limits}\n[[repair.policy]]\nmatch = {{ {app} }}\n")
    };
    let oddities = |text: &str| parse(text).expect("no mistake").oddities();
    assert_eq!(oddities(&tables("app = \"shop\", tier = \"a\"")), Vec::<String>::new());
    let odd = "no container has the labels app=shop,tier=b";
    let expected = [format!("[[application]]: {odd}"), format!("[[repair.policy]]: {odd}")];
    assert_eq!(oddities(&tables("app = \"shop\", tier = \"b\"")), expected);
}

#[test]
fn labels_are_bounded_in_number_and_length() {
    let parse_labels = |labels: BTreeMap<String, String>| {
        let labels = toml::to_string(&labels).expect("they are plain").replace('\n', ", ");
        let labels = format!("name = \"web\"\nlabels = {{ {} }}", labels.trim_end_matches(", "));
        parse(&GOOD.replacen("name = \"web\"", &labels, 1)).map_err(|error| error.to_string())
    };
    let many = |count: usize| (0..count).map(|n| (format!("label-{n:05}"), "x".into())).collect();
    let config = parse_labels(many(MAX_LABELS)).expect("as many as there may be");
    assert_eq!(config.container_specs()[0].labels.len(), MAX_LABELS);
    for (labels, expected) in [
        (many(5000), "container.web.labels, their number: 5000 is not within 0 to 256"),
        ([("a".repeat(129), String::new())].into(), ": 129 is not within 1 to 128"),
        (
            [("a".to_owned(), "b".repeat(1025))].into(),
            "container.web.labels.a, its length: 1025 is not within 0 to 1024",
        ),
    ] {
        let error = parse_labels(labels).expect_err(expected);
        assert!(error.contains(expected) && error.len() < 400, "{error}");
    }
}

#[test]
fn every_error_names_the_line_or_the_key() {
    let cases = [
        ("name = \"h1\"", "name = \"h1\"\ncolour = 1", "agent.toml:4: unknown field `colour`"),
        ("name = \"h1\"", "name = \"H 1\"", "agent.toml: host.name: \"H 1\" is no name"),
        ("10.0.1.1", "10.0.0.1", "agent.toml: uplink.b: is the same address"),
        ("10.0.1.1", "0.0.0.0", "agent.toml: uplink.b.address: 0.0.0.0 is no address"),
        ("10.0.1.1", "10.0.1", "agent.toml:7: invalid IP address syntax"),
        ("interval = \"2s\"", "interval = \"1ms\"", "container.web.service.http.interval: 1ms is not within"),
        ("interval = \"2s\"", "timeout = \"11s\"", "container.web.service.http.timeout: 11s is not within"),
        ("interval = \"2s\"", "weight = 0", "container.web.service.http.weight: 0 is not within 1 to 1000"),
        (
            "http = {",
            "tcp = \"127.0.0.1:1\"\nhttp = {",
            "needs exactly one of exec, tcp, udp, icmp, http, grpc and inside",
        ),
        ("http = {", "inside = { file = \"/a\" } #", "service.http.inside: needs member = true in its container"),
        (
            "oci = { rootfs = \"/srv/rootfs\", args = [\"/bin/httpd\"] }\nnetwork",
            "member = true\ndeclared = { pid = 1 }\n#",
            "container.web.member: is only for containers that the agent starts itself",
        ),
        ("10.1.0.2/24", "10.1.0.2", "container.web.network.address: \"10.1.0.2\" is not ADDRESS/LENGTH"),
        ("args = [\"/bin/httpd\"]", "args = []", "container.web.oci.args: is empty"),
        ("name = \"h1\"", "name = \"h1\"\nrack = \"R 1\"", "agent.toml: host.rack: \"R 1\" is no name"),
        (
            "[uplink.b]",
            "[mesh]\nchords = { kind = \"rings\", count = 2 }\n[uplink.b]",
            "agent.toml:7: \"rings\" is no kind",
        ),
        ("[uplink.b]", "[judgement]\nslow_factor = 1\n[uplink.b]", "judgement.slow_factor: 1 is not within 2 to 1000"),
        (
            "[uplink.b]",
            "[judgement]\nflap_longest = \"1m\"\n[uplink.b]",
            "judgement.flap_longest: 1m is not within 5m to 24h",
        ),
        (
            "[uplink.b]",
            "[[application]]\nmatch = {}\nwarning_below = 50\ncritical_below = 60\n[uplink.b]",
            "application 1.critical_below: 60 is not within 0 to 50",
        ),
        ("[uplink.b]", "[mesh]\nposition = 3\n[uplink.b]", "mesh.position: has a meaning only when"),
    ];
    for (from, to, expected) in cases {
        let error = parse(&GOOD.replacen(from, to, 1)).expect_err(to).to_string();
        assert!(error.contains(expected), "{to}: {error}");
        assert!(!error.contains('\n'), "one line: {error}");
    }
}

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
};

use super::*;

/// A daemon of which every answer is written here: it gets the request line and says status and body.
struct FakeDaemon {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

type Script = fn(&str) -> (u16, String);

impl FakeDaemon {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory"), asked: Arc::default() }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    /// Answers from now on.
    fn answer(&self, script: Script) {
        let listener = UnixListener::bind(self.socket()).expect("a short path");
        let asked = self.asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, script, &asked);
            }
        });
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("no test panics in it"))
    }

    fn container(&self, keys: &str) -> Container {
        let socket = self.socket();
        let text = format!("name = \"web\"\n[docker]\nsocket = {socket:?}\n{keys}");
        toml::from_str(&text).expect("the keys are known")
    }

    fn driver(&self, keys: &str) -> (DockerDriver, Container) {
        let container = self.container(keys);
        (DockerDriver::new([&container], self.directory.path(), "0a"), container)
    }
}

fn serve(stream: UnixStream, script: Script, asked: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(&stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).expect("a request");
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
        if line.trim().is_empty() {
            break;
        }
    }
    reader.take(length).read_to_end(&mut Vec::new()).expect("the body");
    let request = first.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let (status, body) = script(&request);
    asked.lock().expect("no test panics in it").push(request);
    let length = if status == 299 { 1 << 40 } else { body.len() };
    let mut stream = &stream;
    let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
    // 299 stands for a daemon that goes mad: its answer has no end.
    while status == 299 && stream.write_all(&[b' '; 65536]).is_ok() {}
}

fn inspect(owner: &str, running: bool) -> (u16, String) {
    let (status, pid) = if running { ("running", std::process::id()) } else { ("exited", 0) };
    let state = format!(r#"{{"Status":"{status}","Running":{running},"Paused":false,"Pid":{pid}}}"#);
    (200, format!(r#"{{"Id":"1f","State":{state},"Config":{{"Labels":{{"ringmesh.instance":"{owner}"}}}}}}"#))
}

fn none() -> (u16, String) {
    (404, r#"{"message":"no such container"}"#.into())
}

#[tokio::test]
async fn what_runs_is_seen_and_a_daemon_that_dies_changes_nothing_but_the_problem() {
    let daemon = FakeDaemon::new();
    daemon.answer(|_| inspect("0a", true));
    let (driver, _) = daemon.driver("image = \"busybox\"");
    let running = driver.inspect("web").await.expect("always");
    assert_eq!(running.status.state, ContainerState::Running);
    assert_eq!(running.process, ProcessId::of(std::process::id()));
    assert_eq!(daemon.asked(), ["GET /containers/web.0a/json"]);

    std::fs::remove_file(daemon.socket()).expect("it is ours");
    let silent = driver.inspect("web").await.expect("always");
    let problem = silent.status.problem.clone().expect("the daemon is gone");
    assert!(problem.starts_with("the container daemon at /"), "{problem}");
    assert!(problem.ends_with("No such file or directory (os error 2); does it run?"), "{problem}");
    assert_eq!(silent.process, running.process);
    assert!(silent.status.unreachable);
    assert_eq!(ContainerStatus { problem: None, unreachable: false, ..silent.status }, running.status);

    // Its first process has ended: that needs no daemon to be known.
    let gone = Observed { process: Some(ProcessId { pid: u32::MAX, start_ticks: 1 }), ..running };
    driver.known().get_mut("web").expect("it is configured").observed = Some(gone);
    let ended = driver.inspect("web").await.expect("always");
    assert_eq!((ended.status.state, ended.status.pid), (ContainerState::Stopped, None));
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_is_left_alone_for_a_while() {
    let daemon = FakeDaemon::new();
    let (driver, _) = daemon.driver("image = \"busybox\"");
    let never = driver.list().await.expect("always").remove(0);
    assert_eq!((never.status.state, never.status.problem.is_some()), (ContainerState::Unknown, true));
    daemon.answer(|_| none());
    assert_eq!(driver.inspect("web").await.expect("always"), never);
    assert_eq!(daemon.asked(), [""; 0], "it rests");
    // An order is somebody's wish.
    driver.delete("web").await.expect("there is nothing to remove");
    assert_eq!(driver.inspect("web").await.expect("always"), Observed::absent("web"));
}

#[tokio::test]
async fn what_others_made_is_neither_replaced_nor_removed() {
    let daemon = FakeDaemon::new();
    daemon.answer(|_| inspect("somebody", true));
    let (driver, container) = daemon.driver("image = \"busybox\"");
    assert_eq!(driver.inspect("web").await.expect("always"), Observed::absent("web"));
    let error = driver.start(&container).await.expect_err("its name is taken");
    assert!(error.one_line().starts_with("web.0a at /"), "{error}");
    driver.stop("web").await.expect_err("it is not ours");
    driver.delete("web").await.expect_err("it is not ours");
    let (driver, container) = daemon.driver("container = \"legacy\"");
    driver.delete("web").await.expect_err("it was made by somebody else");
    driver.restart(&container).await.expect("it is ours to start and stop");
    let orders: Vec<String> = daemon.asked().into_iter().filter(|asked| !asked.starts_with("GET")).collect();
    let stop_and_start = ["kill", "wait"].map(|verb| format!("POST /containers/1f/{verb}"));
    assert_eq!(orders[..2], stop_and_start);
    assert_eq!(orders[2..], ["POST /containers/legacy/start"]);
}

#[tokio::test]
async fn a_start_that_fails_leaves_nothing() {
    let daemon = FakeDaemon::new();
    daemon.answer(|request| match request {
        "POST /containers/create?name=web.0a" => (201, r#"{"Id":"1f","Warnings":[]}"#.into()),
        "POST /containers/1f/start" => (500, r#"{"message":"no such\nprogram"}"#.into()),
        "GET /containers/web.0a/json" => inspect("0a", false),
        _ => (204, String::new()),
    });
    let (driver, container) = daemon.driver("image = \"busybox\"\nargs = [\"nothing\"]");
    let error = driver.start(&container).await.expect_err("there is no such program");
    assert_eq!(error.one_line(), "docker-api: no such program");
    let asked = daemon.asked();
    assert_eq!(asked.last().map(String::as_str), Some("DELETE /containers/1f?force=1&v=1"), "{asked:?}");
}

#[tokio::test]
async fn an_image_that_is_not_there_is_named() {
    let daemon = FakeDaemon::new();
    daemon.answer(|_| none());
    let (driver, container) = daemon.driver("image = \"no/such:1\"");
    let error = driver.start(&container).await.expect_err("there is no such image").one_line();
    assert!(error.starts_with("docker-api: there is no image no/such:1 at /"), "{error}");
    assert!(error.ends_with("; pull it there first"), "{error}");
}

#[tokio::test]
async fn an_answer_without_end_is_a_problem_and_no_memory() {
    let daemon = FakeDaemon::new();
    daemon.answer(|_| (299, String::new()));
    let (driver, _) = daemon.driver("image = \"busybox\"");
    let problem = driver.inspect("web").await.expect("always").status.problem.expect("no sense in it");
    assert!(problem.contains("more than 16777216 bytes"), "{problem}");
}

#[tokio::test]
async fn events_and_the_loss_of_the_daemon_are_told() {
    let daemon = FakeDaemon::new();
    daemon.answer(|request| match request.starts_with("GET /events") {
        true => (200, "{\"Action\":\"die\",\"Actor\":{\"Attributes\":{\"name\":\"web.0a\"}}}\nnot JSON\n".into()),
        false => none(),
    });
    let (driver, _) = daemon.driver("image = \"busybox\"");
    let (sender, mut told) = mpsc::channel(8);
    driver.watch(sender);
    let mut next =
        async || tokio::time::timeout(std::time::Duration::from_secs(60), told.recv()).await.expect("in time");
    for what in ["it is heard of", "the event", "the stream has ended", "heard of again"] {
        assert_eq!(next().await, Some(vec!["web".to_owned()]), "{what}");
    }
}

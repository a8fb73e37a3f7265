//! Daemons that run containers, each with its files in a directory of the test and one image that was made from busybox.

mod dockerd;
mod podman;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

pub(crate) use dockerd::Dockerd;
pub(crate) use podman::Podman;

use crate::containers::{PATIENCE, make_rootfs};

/// At every daemon.
pub(crate) const IMAGE: &str = "localhost/ringmesh-test:1";

/// What tests do with a daemon. When it is dropped, it is ended and all its containers are removed.
pub(crate) trait Daemon {
    /// Where it listens.
    fn socket(&self) -> PathBuf;

    /// It dies; its containers run on.
    fn kill(&mut self);

    /// It begins, and is there when this returns.
    fn serve(&mut self);

    /// Of its process.
    fn pid(&self) -> i32;

    /// Somebody makes a container that sleeps.
    fn make(&self, name: &str) {
        let body = format!(r#"{{"Image":"{IMAGE}","Cmd":["sleep","600"],"HostConfig":{{"NetworkMode":"none"}}}}"#);
        self.order("POST", &format!("/containers/create?name={name}"), &body);
        self.order("POST", &format!("/containers/{name}/start"), "");
    }

    /// Somebody does this to a container: "pause", "unpause".
    fn post(&self, name: &str, verb: &str) {
        self.order("POST", &format!("/containers/{name}/{verb}"), "");
    }

    /// Somebody removes a container.
    fn remove(&self, name: &str) {
        self.order("DELETE", &format!("/containers/{name}?force=1"), "");
    }

    /// All containers, whatever their state, by their names.
    fn containers(&self) -> Vec<String> {
        let list = self.order("GET", "/containers/json?all=1", "");
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        let name = |container: &serde_json::Value| container["Names"][0].as_str().unwrap().trim_matches('/').to_owned();
        list.as_array().unwrap().iter().map(name).collect()
    }

    /// Asks it for something that it must not refuse.
    fn order(&self, method: &str, path: &str, body: &str) -> String {
        let (status, answer) = ask(&self.socket(), method, path, "application/json", body.as_bytes()).unwrap();
        assert!(status < 300, "{method} {path}: {status} {answer}");
        answer
    }
}

/// Status and body.
fn ask(socket: &Path, method: &str, path: &str, kind: &str, body: &[u8]) -> std::io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Without chunks, and closed after the answer.
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, body.to_owned()))
}

/// A root file system with busybox in an archive, in `directory`.
fn archive(directory: &Path) -> PathBuf {
    let (rootfs, archive) = (directory.join("rootfs"), directory.join("rootfs.tar"));
    make_rootfs(&rootfs);
    let tar = Command::new("tar").arg("-C").arg(&rootfs).arg("-cf").arg(&archive).arg(".").status().unwrap();
    assert!(tar.success());
    archive
}

/// Waits until it is so; there is nothing to be told of it.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

//! python3-etcd3 of Debian.

use std::process::Command;

use crate::support::Member;

const SCRIPT: &str = r#"
import sys, threading, etcd3
client = etcd3.client(host="127.0.0.1", port=int(sys.argv[1]), timeout=20)
client.put("/a/1", "one"); client.put("/a/2", "two")
assert client.get("/a/1")[0] == b"one"
assert [value for value, _ in client.get_prefix("/a/")] == [b"one", b"two"]
assert [value for value, _ in client.get_prefix("/a/", sort_order="descend", sort_target="key")] == [b"two", b"one"]
assert client.put_if_not_exists("/a/3", "three") and not client.put_if_not_exists("/a/3", "four")
assert client.replace("/a/3", "three", "3") and not client.replace("/a/3", "three", "4")
done, answers = client.transaction(
    compare=[client.transactions.value("/a/1") == "one", client.transactions.version("/a/9") == 0],
    success=[client.transactions.put("/a/1", "1"), client.transactions.get("/a/1")],
    failure=[client.transactions.delete("/a/1")])
assert done and answers[1][0][0] == b"1", answers
events, cancel = client.watch_prefix("/w/")
for number in range(20):
    client.put("/w/%d" % number, str(number))
client.delete("/w/0")
seen = [next(events) for _ in range(21)]
cancel()
assert [event.value for event in seen[:20]] == [str(number).encode() for number in range(20)]
assert isinstance(seen[20], etcd3.events.DeleteEvent)
lease = client.lease(30)
client.put("/l", "x", lease=lease)
assert lease.granted_ttl == 30 and 0 < lease.remaining_ttl <= 30 and lease.keys == [b"/l"]
assert lease.refresh()[0].TTL == 30
lease.revoke()
assert client.get("/l") == (None, None)
with client.lock("door", ttl=20) as lock:
    assert lock.is_acquired()
assert client.delete_prefix("/a/").deleted == 3
status = client.status()
assert status.version.startswith("3.4.") and status.leader is not None, status
assert len(list(client.members)) == 1
assert list(client.list_alarms()) == []
client.defragment()
client.compact(5)
try:
    client.get("/a/1", serializable=True) and list(client.watch_response("/a/1", start_revision=2)[0])
except etcd3.exceptions.RevisionCompactedError:
    pass
with open(sys.argv[2], "wb") as file:
    client.snapshot(file)
print("well")
"#;

#[tokio::test]
#[ignore = "needs Debian's python3-etcd3"]
async fn the_python_client_of_debian_is_content() {
    let member = Member::alone();
    member.ready().await;
    let port = member.url().rsplit(':').next().unwrap().to_owned();
    let snapshot = member.directory().join("snapshot");
    let output = Command::new("/usr/bin/python3")
        .env("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
        .args(["-c", SCRIPT, &port])
        .arg(&snapshot)
        .output()
        .expect("python3 is installed");
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said == "well\n", "{said}{failed}");
    assert!(std::fs::metadata(&snapshot).unwrap().len() > 0);
}

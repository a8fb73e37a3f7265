//! The containers of this host: started, watched, stopped; how they are is told, never judged.
//!
//! ```text
//!   host loop ◄── Vec<ContainerStatus> ── supervisor ── Driver ─┬─ oci ──── shim (one process a start) ── libcontainer
//!             ─── RuntimeHandle ────────►     │                 │      └─── crun, runc
//!                                          pidfds               ├─ docker-api ── dockerd, podman
//!                                                               └─ declared
//! ```
//!
//! It owns what lies in `<state_dir>/containers` and `<state_dir>/runtime`, the control groups below
//! `/ringmesh/<instance>` and the veth pairs of its containers. It knows nothing of probes, scores and the mesh.
//! Containers are children of none of its threads: they run on when the agent ends, and are taken over when it starts.

mod cgroup;
mod declared;
mod docker;
mod driver;
mod handle;
mod network;
mod oci;
mod process;
pub mod shim;
mod supervisor;
mod teardown;
mod watch;

pub use cgroup::remove_cgroups;
pub use declared::DeclaredDriver;
pub use docker::DockerDriver;
pub use driver::{Answer, Capabilities, Driver, DriverError, Observed, Verb};
pub use handle::{RuntimeError, RuntimeHandle};
pub use oci::OciDriver;
pub use process::ProcessId;
pub use ringmesh_node::health::spec::{ContainerState, ContainerStatus};
pub use supervisor::{Left, spawn};
pub use teardown::{TeardownError, teardown};

/// The name under which the containers of one state directory are kept apart from those of other agents on the machine,
/// as in a lab: sixteen hexadecimal digits.
pub fn instance(state_dir: &std::path::Path) -> String {
    use std::os::unix::ffi::OsStrExt;

    use sha2::{Digest, Sha256};
    let path = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    let digest = Sha256::digest(path.as_os_str().as_bytes());
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

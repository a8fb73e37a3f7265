//! The OCI bundle of a container: what it may see and do.
//!
//! The root file system is one directory, read-only, for many containers; what must be written lies in tmpfs. Mount
//! points must therefore be there before: empty directories are made where they are missing.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use oci_spec::{
    OciSpecError,
    runtime::{
        Capabilities, Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxDeviceCgroupBuilder, LinuxMemoryBuilder,
        LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResourcesBuilder, Mount, MountBuilder, PosixRlimitBuilder,
        PosixRlimitType, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder, get_default_maskedpaths,
        get_default_readonly_paths,
    },
};
use ringmesh_node::remedy::base;
use rustix::process::{Resource, getrlimit};

use crate::{
    config::Oci,
    probe::{heartbeat, inside},
    runtime::{cgroup, driver::DriverError, oci::layout::Layout},
};

/// What a first process may do as root of its own namespaces: the widespread default, less making device nodes and
/// writing to the audit log.
const CAPABILITIES: [Capability; 12] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Open files a process, unless the host allows fewer. Processes may raise it to the host's own hard limit.
const OPEN_FILES: u64 = 1024;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const MOUNT_POINTS: [&str; 4] = ["proc", "dev", "tmp", "run"];

/// Checks the root file system and writes config.json. Blocks.
pub(super) fn write(layout: &Layout, name: &str, oci: &Oci, member: bool) -> Result<(), DriverError> {
    check_rootfs(&oci.rootfs, &oci.args[0])?;
    let bundle = layout.bundle(name);
    fs::create_dir_all(&bundle).map_err(DriverError::io("make directory", &bundle))?;
    let path = bundle.join("config.json");
    let invalid = |error: OciSpecError| DriverError::Runtime { runtime: "oci-spec", message: error.to_string() };
    let (heartbeat, mut binds) = (layout.heartbeat(name), Vec::new());
    binds.extend(heartbeat.map(|directory| Bind { at: heartbeat::INSIDE, source: directory, runs: false }));
    if member {
        let state_dir = layout.state_dir();
        inside::prepare(state_dir, name)
            .map_err(DriverError::io("make directory", inside::directory(state_dir, name)))?;
        binds.push(Bind { at: inside::INSIDE, source: inside::directory(state_dir, name), runs: false });
        binds.push(Bind { at: ringmesh_member::PROGRAM, source: inside::program(state_dir), runs: true });
    }
    spec(name, oci, cgroup::path(&layout.instance, name), &binds).and_then(|spec| spec.save(path)).map_err(invalid)
}

/// Something of the host that the container sees, and cannot change.
struct Bind {
    at: &'static str,
    source: PathBuf,
    /// It is a program.
    runs: bool,
}

fn check_rootfs(rootfs: &Path, program: &str) -> Result<(), DriverError> {
    let refuse = |problem: String| DriverError::Rootfs { path: rootfs.to_owned(), problem };
    match fs::metadata(rootfs) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(refuse("is not a directory; name an unpacked root file system".into())),
        Err(error) => return Err(refuse(format!("{error}; name an unpacked root file system"))),
    }
    for point in MOUNT_POINTS {
        let path = rootfs.join(point);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(refuse(format!("/{point} is not a directory; a mount point is needed there"))),
            Err(_) => fs::create_dir(&path)
                .or_else(|error| if path.is_dir() { Ok(()) } else { Err(error) })
                .map_err(|error| refuse(format!("no mount point /{point}, and cannot make it ({error}); make it")))?,
        }
    }
    // Links lead within the root file system, not from here: what is a link is for the runtime to judge.
    if let Ok(metadata) = fs::symlink_metadata(rootfs.join(program.trim_start_matches('/')))
        && program.starts_with('/')
        && metadata.is_file()
        && metadata.permissions().mode() & 0o111 == 0
    {
        return Err(refuse(format!("{program} is not executable; chmod +x it")));
    }
    Ok(())
}

fn spec(name: &str, oci: &Oci, cgroup: PathBuf, binds: &[Bind]) -> Result<Spec, OciSpecError> {
    let mut env = oci.env.clone();
    if !env.iter().any(|variable| variable.starts_with("PATH=")) {
        env.push(PATH.into());
    }
    let capabilities: Capabilities = CAPABILITIES.into_iter().collect();
    let process = ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(0_u32).gid(0_u32).build()?)
        .args(oci.args.clone())
        .env(env)
        .cwd("/")
        .capabilities(
            LinuxCapabilitiesBuilder::default()
                .bounding(capabilities.clone())
                .effective(capabilities.clone())
                .permitted(capabilities)
                .inheritable(Capabilities::new())
                .ambient(Capabilities::new())
                .build()?,
        )
        .rlimits([open_files()?])
        .no_new_privileges(true)
        .build()?;
    let namespaces = [
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Network,
    ];
    let namespaces: Result<Vec<_>, _> =
        namespaces.into_iter().map(|kind| LinuxNamespaceBuilder::default().typ(kind).build()).collect();
    // Runtimes add the devices that every container needs: null, zero, full, random, urandom, tty, ptmx.
    let no_devices = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?;
    let mut resources = LinuxResourcesBuilder::default().devices([no_devices]);
    if let Some(bytes) = oci.memory_limit {
        let limit = i64::try_from(bytes).unwrap_or(i64::MAX);
        resources = resources.memory(LinuxMemoryBuilder::default().limit(limit).build()?);
    }
    let linux = LinuxBuilder::default()
        .namespaces(namespaces?)
        .cgroups_path(cgroup)
        .resources(resources.build()?)
        .masked_paths(get_default_maskedpaths())
        .readonly_paths(get_default_readonly_paths())
        .build()?;
    SpecBuilder::default()
        .version("1.0.2")
        .root(RootBuilder::default().path(&oci.rootfs).readonly(true).build()?)
        .hostname(base(name))
        .mounts(mounts(binds)?)
        .process(process)
        .linux(linux)
        .build()
}

fn mounts(binds: &[Bind]) -> Result<Vec<Mount>, OciSpecError> {
    let mount_of = |source: &Path, at: &str, kind: &str, options: &[&str]| {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        MountBuilder::default().destination(at).typ(kind).source(source).options(options).build()
    };
    let mount = |at: &str, kind: &str, options: &[&str]| mount_of(Path::new(kind), at, kind, options);
    let mut mounts = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", &["nosuid", "noexec", "strictatime", "mode=755", "size=64k"])?,
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"])?,
        mount("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777", "size=65536k"])?,
        mount("/run", "tmpfs", &["nosuid", "nodev", "mode=755", "size=65536k"])?,
    ];
    for Bind { at, source, runs } in binds {
        // A socket can be sent to where nothing can be written.
        let options = ["bind", "ro", "nosuid", "nodev", "noexec"];
        mounts.push(mount_of(source, at, "bind", if *runs { &options[..4] } else { &options })?);
    }
    Ok(mounts)
}

/// Never above the hard limit that we have: raising it needs a privilege that we may lack.
fn open_files() -> Result<oci_spec::runtime::PosixRlimit, OciSpecError> {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile).soft(OPEN_FILES.min(hard)).hard(hard).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OciRuntime;

    fn oci(rootfs: &Path) -> Oci {
        Oci {
            runtime: OciRuntime::Libcontainer,
            rootfs: rootfs.to_owned(),
            args: vec!["/bin/httpd".into(), "-f".into()],
            env: vec!["A=1".into()],
            memory_limit: Some(64 << 20),
        }
    }

    #[test]
    fn a_bundle_is_read_only_bounded_and_named() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let rootfs = directory.path().join("rootfs");
        fs::create_dir(&rootfs).expect("it is ours");
        let layout = Layout::new(&directory.path().join("state"), "lab-h1");
        write(&layout, "web", &oci(&rootfs), false).expect("a valid container");
        assert!(MOUNT_POINTS.iter().all(|point| rootfs.join(point).is_dir()));
        let text = fs::read_to_string(layout.bundle("web").join("config.json")).expect("it was just written");
        let spec: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!(spec["root"]["readonly"], true);
        assert_eq!(spec["hostname"], "web");
        assert_eq!(spec["linux"]["cgroupsPath"], "/ringmesh/lab-h1/web");
        assert_eq!(spec["linux"]["resources"]["memory"]["limit"], 64 << 20);
        assert_eq!(spec["process"]["noNewPrivileges"], true);
        assert_eq!(spec["process"]["env"], serde_json::json!(["A=1", PATH]));
        assert!(!text.contains(heartbeat::INSIDE), "it has no such service, and no member");
        let limit = &spec["process"]["rlimits"][0];
        assert!(limit["soft"].as_u64() <= limit["hard"].as_u64());
        assert!(limit["hard"].as_u64() <= Some(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)));
    }

    #[test]
    fn who_speaks_up_finds_its_socket() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let rootfs = directory.path().join("rootfs");
        let state = directory.path().join("state");
        fs::create_dir(&rootfs).expect("it is ours");
        fs::create_dir_all(heartbeat::directory(&state, "web")).expect("it is ours");
        let layout = Layout::new(&state, "lab-h1");
        // A clone has the host name and the socket of what it replaces.
        write(&layout, "web.1", &oci(&rootfs), false).expect("a valid container");
        let text = fs::read_to_string(layout.bundle("web.1").join("config.json")).expect("it was just written");
        let spec: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!(spec["hostname"], "web");
        let mount = spec["mounts"].as_array().expect("a list").last().expect("there are some").clone();
        assert_eq!(mount["destination"], heartbeat::INSIDE);
        assert_eq!(mount["source"], state.join("heartbeat/web").to_str().expect("text"));
        assert_eq!(mount["options"], serde_json::json!(["bind", "ro", "nosuid", "nodev", "noexec"]));
    }

    #[test]
    fn who_has_a_member_finds_its_program_and_a_socket_and_can_change_neither() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let rootfs = directory.path().join("rootfs");
        let state = directory.path().join("state");
        fs::create_dir(&rootfs).expect("it is ours");
        let layout = Layout::new(&state, "lab-h1");
        write(&layout, "web", &oci(&rootfs), true).expect("a valid container");
        let text = fs::read_to_string(layout.bundle("web").join("config.json")).expect("it was just written");
        let spec: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let mounts = spec["mounts"].as_array().expect("a list");
        let [.., sockets, program] = mounts.as_slice() else { panic!("there are some: {mounts:?}") };
        assert_eq!(sockets["source"], state.join("member/sockets/web").to_str().expect("text"));
        assert!(ringmesh_member::SOCKET.starts_with(sockets["destination"].as_str().expect("text")));
        assert_eq!(sockets["options"], serde_json::json!(["bind", "ro", "nosuid", "nodev", "noexec"]));
        assert_eq!(program["source"], state.join("member/program").to_str().expect("text"));
        assert_eq!(program["destination"], ringmesh_member::PROGRAM);
        assert_eq!(program["options"], serde_json::json!(["bind", "ro", "nosuid", "nodev"]));
        assert!(state.join("member/sockets/web/program").is_file(), "something to mount it onto");
    }

    #[test]
    fn an_unusable_root_file_system_is_explained() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let layout = Layout::new(directory.path(), "i");
        let problem = |rootfs: &Path| write(&layout, "web", &oci(rootfs), false).expect_err("unusable").one_line();
        let missing = directory.path().join("missing");
        assert!(problem(&missing).contains("No such file or directory"), "{}", problem(&missing));
        let file = directory.path().join("file");
        fs::write(&file, "").expect("it is ours");
        assert!(problem(&file).ends_with("is not a directory; name an unpacked root file system"));
        fs::create_dir(&missing).and_then(|()| fs::write(missing.join("proc"), "")).expect("it is ours");
        assert!(problem(&missing).contains("/proc is not a directory"));
        let plain = directory.path().join("plain");
        fs::create_dir_all(plain.join("bin")).and_then(|()| fs::write(plain.join("bin/httpd"), "")).expect("ours");
        assert!(problem(&plain).contains("/bin/httpd is not executable"));
    }
}

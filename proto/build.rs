//! Compiles the .proto files with protox, so that no protoc needs to be installed.

use std::{env, path::PathBuf};

const FILES: [&str; 13] = [
    "ringmesh/v1/common.proto",
    "ringmesh/v1/host.proto",
    "ringmesh/v1/ring.proto",
    "ringmesh/v1/container.proto",
    "ringmesh/v1/service.proto",
    "ringmesh/v1/history.proto",
    "ringmesh/v1/event.proto",
    "ringmesh/v1/agent.proto",
    "ringmesh/v1/certificate.proto",
    "ringmesh/v1/zone.proto",
    "ringmesh/v1/operation.proto",
    "ringmesh/v1/cell.proto",
    "ringmesh/v1/store.proto",
];
const ETCD_FILES: [&str; 5] =
    ["etcd/kv.proto", "etcd/auth.proto", "etcd/rpc.proto", "etcd/v3lock.proto", "etcd/v3election.proto"];
const STORE_FILES: [&str; 2] = ["ringmesh/store/v1/log.proto", "ringmesh/store/v1/peer.proto"];
const RECORD_FILE: &str = "ringmesh/peer/v1/record.proto";
const DISK_FILE: &str = "ringmesh/disk/v1/history.proto";
const PEER_FILE: &str = "ringmesh/peer/v1/peer.proto";

/// The messages of [`RECORD_FILE`], and how those of [`PEER_FILE`] hold them.
const RECORDS: [(&str, &str); 6] = [
    ("HostRecord", "crate::shared::Shared<crate::peer::HostRecord>"),
    ("LinkRecord", "crate::peer::LinkRecord"),
    ("BrokenPair", "crate::peer::BrokenPair"),
    ("ArmingRecord", "crate::peer::ArmingRecord"),
    ("RecordMore", "crate::peer::RecordMore"),
    ("ReplicaRecord", "crate::peer::ReplicaRecord"),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES.iter().chain(&ETCD_FILES).chain(&STORE_FILES).chain(&[RECORD_FILE, PEER_FILE, DISK_FILE]) {
        println!("cargo:rerun-if-changed={file}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);

    // Served by gRPC reflection and used by the command line to print JSON.
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(false).open_files(FILES)?;
    std::fs::write(out.join("ringmesh.v1.descriptor.bin"), compiler.encode_file_descriptor_set())?;

    // For the JSON gateway and for reflection.
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(false).open_files(ETCD_FILES)?;
    std::fs::write(out.join("etcd.descriptor.bin"), compiler.encode_file_descriptor_set())?;

    let config = || {
        let mut config = prost_build::Config::new();
        config.btree_map(["."]).bytes(["."]).skip_protoc_run();
        config
    };
    // Apart, because what is held by a wrapper is not generated where it is.
    let record_out = out.join("record");
    std::fs::create_dir_all(&record_out)?;
    config().out_dir(record_out).compile_fds(protox::compile([RECORD_FILE], ["."])?)?;

    config().compile_fds(protox::compile([DISK_FILE], ["."])?)?;

    compile(config(), protox::compile(ETCD_FILES, ["."])?)?;
    let mut store = config();
    store.extern_path(".etcdserverpb", "crate::etcd::etcdserverpb");
    store.compile_fds(protox::compile(STORE_FILES, ["."])?)?;

    let mut peer = config();
    for (message, held) in RECORDS {
        peer.extern_path(format!(".ringmesh.peer.v1.{message}"), held);
    }
    compile(peer, protox::compile(FILES.iter().chain([&PEER_FILE]), ["."])?)?;
    Ok(())
}

#[cfg(feature = "grpc")]
fn compile(config: prost_build::Config, files: prost_types::FileDescriptorSet) -> std::io::Result<()> {
    tonic_prost_build::configure().compile_fds_with_config(files, config)
}

#[cfg(not(feature = "grpc"))]
fn compile(mut config: prost_build::Config, files: prost_types::FileDescriptorSet) -> std::io::Result<()> {
    config.compile_fds(files)
}

//! The one binary.

fn main() -> std::process::ExitCode {
    // First of all: the shim must run before any thread exists.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == ringmesh_agentd::runtime::shim::SUBCOMMAND) {
        return ringmesh_agentd::runtime::shim::main(std::env::args().skip(2).collect());
    }
    std::process::ExitCode::SUCCESS
}

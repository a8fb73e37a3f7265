//! The member that a container may have inside itself, and what it and its agent say to each other.
//!
//! It owns SWIM as all members of cells speak it, hosted or not ([`swim`]), the words between agent and member ([`message`])
//! and the member as a pure machine ([`inside`]). It knows no socket and no clock: the program `ringmesh-member` around it
//! does. It needs no standard library, so that the program can do without one, too: docs/decisions/0017.
//!
//! ```text
//!   agent ── Order ──▶ ┌ program ─ poll ─┐ ──▶ Inside: foca, timers
//!         ◀─ Word ───  └ (src/program)   ┘ ──▶ questions: a socket, a file
//! ```

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod inside;
pub mod message;
pub mod swim;

/// Where the program is in a container that has a member.
pub const PROGRAM: &str = "/run/ringmesh-member/program";

/// The agent's socket in such a container, of sequenced packets.
pub const SOCKET: &str = "/run/ringmesh-member/socket";

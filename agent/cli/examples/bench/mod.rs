//! What the two benches share: labs that go again, what /proc says of processes, idle figures, samples and tables.

pub(crate) mod idle;
pub(crate) mod lab;
pub(crate) mod process;
pub(crate) mod sample;
pub(crate) mod serf;
pub(crate) mod table;

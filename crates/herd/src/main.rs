//! The `herd` program: one folder per subcommand, no logic of its own.
fn main() {}

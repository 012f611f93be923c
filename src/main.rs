//! The `limner` binary: one library call per subcommand.

fn main() -> std::process::ExitCode {
    limner::cli::main()
}

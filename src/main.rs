//! The `limner` binary: one library call per subcommand.

mod allocator;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> std::process::ExitCode {
    allocator::set_delay(std::env::args_os().nth(1).is_some_and(|command| command == "train"));
    limner::memory::on_give_back(allocator::give_back);
    limner::cli::main()
}

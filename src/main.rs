//! The program: hands its arguments to the library, and nothing else.
//! The allocator is chosen here because a library must not.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> std::process::ExitCode {
    tollgate::cli::main()
}

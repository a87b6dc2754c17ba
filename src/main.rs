//! The program: hands its arguments to the library.
//! Only what has to be in the binary is here: its allocator.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> std::process::ExitCode {
    tollgate::cli::main()
}

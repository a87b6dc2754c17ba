//! The program: hands its arguments to the library.

use mimalloc::MiMalloc;

#[global_allocator]
static GLOBAL: MiMalloc = MiMalloc;

fn main() -> std::process::ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info,pingora=warn,pingora_core=warn,pingora_proxy=warn")).init();
    let args: Vec<String> = std::env::args().collect();
    let at = args.iter().position(|arg| arg == "-c").map_or(0, |at| at + 1);
    tollgate::server::run(std::path::Path::new(&args[at]))
}

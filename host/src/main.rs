use std::process::ExitCode;

fn main() -> ExitCode {
    dropsonde::cli::main()
}

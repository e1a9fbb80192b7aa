//! `portcullis-load`: loads an MQTT broker and counts exactly.
//!
//! One thread, packets encoded once, large reads and writes, so that the broker is what is measured.
//! Every payload says who sent it, the how-manieth it is and when it was due; so what is lost, doubled
//! or misrouted is known message by message. Processor time and memory of the broker are read from
//! `/proc`. Every run is bounded in time and count, and goes to loopback unless told otherwise.
//!
//! Exit status: 0 everything came once and nothing was refused, 1 something was not (it is in the
//! output), 2 the run could not be made.

mod cli;
mod connect;
mod net;
mod process;
mod report;
mod run;
mod tally;
mod traffic;
mod wire;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let (common, outcome) = match &cli.command {
        cli::Command::Pubsub(args) => (&args.common, run::pubsub(args)),
        cli::Command::Subs(args) => (&args.common, run::subs(args)),
        cli::Command::Connect(args) => (&args.common, connect::connect(args)),
    };
    match outcome {
        Ok((report, clean)) => {
            if common.json {
                println!("{}", report.json());
            } else {
                println!("{report}");
            }
            ExitCode::from(u8::from(!clean))
        }
        Err(error) => {
            eprintln!("portcullis-load: {error}");
            ExitCode::from(2)
        }
    }
}

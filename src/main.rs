//! The `portcullis` command.

#![deny(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser as _;
use portcullis::cli::{Cli, Client, Command, Exit, Session};
use portcullis::config::Config;
use portcullis::control::Request;
use portcullis::{ask, console, log, operate, passwd, quickstart, run, say, store, token};
use portcullis_core::broker::Broker;

// Takes the place of malloc: half its cost where memory is freed by another thread, as messages are.
// As the allocator of Rust alone, mimalloc would be asked for aligned memory only, for which it takes
// the next larger size: 80 bytes of each connection.
use mimalloc as _;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(&cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            for line in error.lines() {
                eprintln!("error: {line}");
            }
            Exit::Failed.into()
        }
    }
}

fn dispatch(cli: &Cli) -> Result<Exit, String> {
    match &cli.command {
        Command::Quickstart(arguments) => {
            let prepared =
                quickstart::prepare(&arguments.directory, arguments.bind, SystemTime::now())
                    .map_err(|error| error.to_string())?;
            for note in &prepared.notes {
                say!("note: {note}");
            }
            let config = Config::load(&prepared.config_path).map_err(|error| error.to_string())?;
            let directory = arguments.directory.clone();
            serve(cli, config, &move |broker| {
                let address = broker
                    .addresses()
                    .into_iter()
                    .find_map(|(_, address)| address);
                match address {
                    Some(address) => say!("{}", quickstart::commands(&directory, address)),
                    None => say!("{}", prepared.commands),
                }
            })
        }
        Command::Run(argument) => {
            let config = Config::load(&argument.config).map_err(|error| error.to_string())?;
            serve(cli, config, &|_| {})
        }
        Command::Check(argument) => ask::check(argument),
        Command::Policy(command) => ask::policy(command),
        Command::Audit(command) => ask::audit(command),
        Command::Pki(command) => ask::pki(command),
        Command::Store(command) => store::run(command),
        Command::Token(command) => token::run(command),
        Command::Passwd(arguments) => {
            let said = passwd::run(arguments).map_err(|error| error.to_string())?;
            console::print(format_args!("{said}"));
            Ok(Exit::Success)
        }
        Command::Status(broker) => operate::run(broker, &Request::Status),
        Command::Client(Client::List(broker)) => {
            operate::run(broker, &Request::Sessions { connected: true })
        }
        Command::Client(Client::Show(one)) => {
            let client_id = one.client_id.clone();
            operate::run(&one.broker, &Request::Session { client_id })
        }
        Command::Client(Client::Kick(one)) | Command::Kick(one) => {
            let client_id = one.client_id.clone();
            operate::run(&one.broker, &Request::Kick { client_id })
        }
        Command::Ban(command) => {
            let (broker, request) = operate::ban(command);
            operate::run(broker, &request)
        }
        Command::Session(Session::List(broker)) => {
            operate::run(broker, &Request::Sessions { connected: false })
        }
        Command::Session(Session::Drop(one)) => {
            let client_id = one.client_id.clone();
            operate::run(&one.broker, &Request::Drop { client_id })
        }
    }
}

fn serve(cli: &Cli, config: Config, on_ready: &(dyn Fn(&Broker) + Sync)) -> Result<Exit, String> {
    log::start(
        cli.log_format.unwrap_or(config.log.format),
        cli.log_level.unwrap_or(config.log.level),
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let served = runtime.block_on(run::run(config, on_ready));
    served
        .map(|()| Exit::Success)
        .map_err(|errors| errors.join("\n"))
}

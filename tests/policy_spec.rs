//! The tutorial of `docs/policies.md` is true: its files are written, its commands run by the real
//! program, and what they print is what stands there.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const TUTORIAL: &str = include_str!("../docs/policies.md");

/// A fenced block: the words after the fence, and the text.
struct Block<'a> {
    info: &'a str,
    text: String,
}

fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        let inside: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(Block {
            info,
            text: inside.join("\n") + "\n",
        });
    }
    blocks
}

/// Each command of a console block, with what it is said to print.
fn commands(text: &str) -> Vec<(&str, String)> {
    let mut commands: Vec<(&str, String)> = Vec::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ portcullis ") {
            commands.push((command, String::new()));
        } else {
            let (_, output) = commands.last_mut().unwrap();
            output.push_str(line);
            output.push('\n');
        }
    }
    commands
}

/// What a command prints, with its exit code at the end where it is not 0.
fn run(directory: &Path, command: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(command.split_whitespace())
        .current_dir(directory)
        .output()
        .unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    text.push_str(&String::from_utf8(output.stderr).unwrap());
    match output.status.code().unwrap() {
        0 => text,
        code => format!("{text}(exit {code})\n"),
    }
}

#[test]
fn the_tutorial_does_what_it_says() {
    let directory = TempDir::new().unwrap();
    let mut ran = 0;
    for block in blocks(TUTORIAL) {
        match block.info.split_once(' ') {
            Some(("toml" | "policy", name)) => {
                let path = directory.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, block.text).unwrap();
            }
            _ if block.info == "console" => {
                for (command, said) in commands(&block.text) {
                    assert_eq!(
                        run(directory.path(), command),
                        said,
                        "$ portcullis {command}"
                    );
                    ran += 1;
                }
            }
            _ => {}
        }
    }
    assert!(ran >= 8, "the tutorial has lost its commands: {ran}");
}

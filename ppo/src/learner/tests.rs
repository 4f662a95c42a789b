//! The learner over the real things: a small random Llama in a GGUF file, llama.cpp serving it, a log and a registry on disk.

mod averages;
mod busy;
mod canary;
mod crash;
mod damaged;
mod failures;
mod forms;
mod halts;
mod hearing;
mod latency;
mod outages;
mod past;
mod pending;
mod places;
mod pointer;
mod refusals;
mod replays;
mod resume;
mod sabotage;
mod saving;
mod switching;
mod trust;
mod unfinished;
mod updates;
mod watching;
mod world;

//! Server settings (command line and environment); nothing about pictures.

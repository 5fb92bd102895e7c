//! The control plane: API, node sessions, dispatcher, store and journal

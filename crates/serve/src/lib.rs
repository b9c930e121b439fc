//! OpenAI-compatible API and chat page.

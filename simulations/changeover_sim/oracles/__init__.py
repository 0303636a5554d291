"""The promises of the design, one checker a file: each looks at a run and says where its promise was broken."""

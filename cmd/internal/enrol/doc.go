// Package enrol makes a machine into a host of a realm, and undoes it: it works
// out all changes first, shows them, and applies them so that it can be killed
// at any instant.
//
// # What holds at every instant
//
//   - Root and the machine's own users get in as before. Nothing that lets
//     somebody in is taken away or switched off; in PAM they pass by our lines.
//   - Each file is as it was or as it is to be, never in between: it is written
//     beside and renamed.
//   - The directory's users are asked after by the account stack before anything
//     lets them in.
//   - All can be put back: what was there is on disk, with the list of what will
//     change, before the first change.
//
// # The journal
//
// Dir (/var/lib/sekisho-enrol, mode 0700) has a folder for each run: 0001, 0002 …
// with the former content of each file, and journal.json. It is made under another
// name and renamed, and has a file "done" when the run was confirmed. A run without
// one was broken off, and is put back by the next. Undo puts back all, the last one
// first, and may be broken off and begun again itself.
package enrol

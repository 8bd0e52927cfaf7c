// Package domain holds the words of Cloakroom and the rules that need nothing
// but them: the device and its record, the ticket that a browser keeps, tokens
// and when they end, and the outcomes that layers tell each other.
//
// Nothing here talks to a store, a network or a clock. Every question about
// time takes now. All other packages import this one; it imports none of them.
package domain

package mongowire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// The opcodes that drivers use: OP_MSG for everything, and OP_QUERY, answered by
// OP_REPLY, for the first handshake of a connection.
const (
	opReply = 1
	opQuery = 2004
	opMsg   = 2013

	headerBytes  = 16
	longest      = 48 << 20
	checksumFlag = 1 << 0
	moreToCome   = 1 << 1
)

var errNotUnderstood = errors.New("mongowire: not a message that is understood")

// message is a request.
type message struct {
	id      uint32
	opcode  uint32
	oneWay  bool // its sender waits for no answer
	command bson.D
}

func readMessage(r io.Reader) (message, error) {
	header := make([]byte, headerBytes)
	if _, err := io.ReadFull(r, header); err != nil {
		return message{}, err
	}
	length := binary.LittleEndian.Uint32(header)
	m := message{id: binary.LittleEndian.Uint32(header[4:]), opcode: binary.LittleEndian.Uint32(header[12:])}
	if length < headerBytes || length > longest {
		return message{}, errNotUnderstood
	}
	body := make([]byte, length-headerBytes)
	if _, err := io.ReadFull(r, body); err != nil {
		return message{}, err
	}
	var err error
	switch m.opcode {
	case opMsg:
		m.command, m.oneWay, err = parseMsg(body)
	case opQuery:
		m.command, err = parseQuery(body)
	default:
		err = errNotUnderstood
	}
	if err == nil && len(m.command) == 0 {
		err = errNotUnderstood
	}
	return m, err
}

// parseMsg puts the sections of an OP_MSG together: one document, and sequences
// that stand for array fields in it.
func parseMsg(body []byte) (command bson.D, oneWay bool, err error) {
	if len(body) < 4 {
		return nil, false, errNotUnderstood
	}
	flags := binary.LittleEndian.Uint32(body)
	body = body[4:]
	if flags&checksumFlag != 0 {
		body = body[:max(len(body)-4, 0)]
	}
	var sequences bson.D
	for len(body) > 0 {
		kind := body[0]
		section, rest, err := sized(body[1:])
		if err != nil {
			return nil, false, err
		}
		body = rest
		if kind == 0 {
			err = bson.Unmarshal(section, &command)
		} else {
			name, documents, found := bytes.Cut(section[4:], []byte{0})
			if !found {
				return nil, false, errNotUnderstood
			}
			sequence := bson.A{}
			for len(documents) > 0 && err == nil {
				var raw []byte
				var document bson.D
				if raw, documents, err = sized(documents); err == nil {
					err = bson.Unmarshal(raw, &document)
				}
				sequence = append(sequence, document)
			}
			sequences = append(sequences, bson.E{Key: string(name), Value: sequence})
		}
		if err != nil {
			return nil, false, err
		}
	}
	return append(command, sequences...), flags&moreToCome != 0, nil
}

// parseQuery reads an OP_QUERY: flags, a name, two numbers and the command.
func parseQuery(body []byte) (bson.D, error) {
	if len(body) < 4 {
		return nil, errNotUnderstood
	}
	_, rest, found := bytes.Cut(body[4:], []byte{0})
	if !found || len(rest) < 8 {
		return nil, errNotUnderstood
	}
	raw, _, err := sized(rest[8:])
	if err != nil {
		return nil, err
	}
	var command bson.D
	if err := bson.Unmarshal(raw, &command); err != nil {
		return nil, err
	}
	if len(command) > 0 && command[0].Key == "$query" {
		command = document(command[0].Value)
	}
	return command, nil
}

// sized cuts off what begins with its own length.
func sized(data []byte) (first, rest []byte, err error) {
	if len(data) < 4 {
		return nil, nil, errNotUnderstood
	}
	length := int64(binary.LittleEndian.Uint32(data))
	if length < 5 || length > int64(len(data)) {
		return nil, nil, errNotUnderstood
	}
	return data[:length], data[length:], nil
}

// reply writes the answer in the form that the request asks for.
func (m message) reply(w io.Writer, answer bson.D) error {
	raw, err := bson.Marshal(answer)
	if err != nil {
		return fmt.Errorf("mongowire: %w", err)
	}
	opcode := uint32(opMsg)
	prefix := make([]byte, 5) // flags, and the kind of the one section
	if m.opcode == opQuery {
		opcode = opReply
		prefix = make([]byte, 20) // flags, cursor, start, and the number of documents
		prefix[16] = 1
	}
	var out []byte
	for _, n := range []uint32{uint32(headerBytes + len(prefix) + len(raw)), 0, m.id, opcode} {
		out = binary.LittleEndian.AppendUint32(out, n)
	}
	_, err = w.Write(append(append(out, prefix...), raw...))
	return err
}

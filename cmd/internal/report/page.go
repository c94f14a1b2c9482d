package report

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sekisho/sekisho/wire"
)

// MaxPage and maxPageBytes keep a page within the limits of an answer.
const (
	MaxPage      = 1000
	maxPageBytes = wire.MaxAnswer / 2
)

// encodePage puts a page into a body: a head, then one line for each item.
func encodePage[T any](head any, items []T) ([]string, error) {
	body := make([]string, 0, len(items)+1)
	b, err := json.Marshal(head)
	for i := 0; err == nil; i++ {
		body = append(body, string(b))
		if i == len(items) {
			return body, nil
		}
		b, err = json.Marshal(items[i])
	}
	return nil, fmt.Errorf("writing the answer: %w", err)
}

// decodePage reads what encodePage wrote.
func decodePage[T any](a wire.Answer, head any) (items []T, err error) {
	if len(a.Body) == 0 {
		return nil, errors.New("the answer is empty: install the same release of sekisho and sekishod")
	}
	if err := json.Unmarshal([]byte(a.Body[0]), head); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	for _, l := range a.Body[1:] {
		var x T
		if err := json.Unmarshal([]byte(l), &x); err != nil {
			return nil, fmt.Errorf("reading the answer: %w", err)
		}
		items = append(items, x)
	}
	return items, nil
}

// pageHead is the head of a page that is followed by what comes after its last item.
type pageHead struct {
	More    bool   `json:"more"`
	Broker  string `json:"broker,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// encodeFirst puts the first items that fit into a page, one at least.
func encodeFirst[T any](head pageHead, all []T) ([]string, error) {
	body, err := encodePage(head, all[:min(len(all), MaxPage)])
	if err != nil {
		return nil, err
	}
	fit, size := 0, 0
	for _, line := range body[1:] {
		if size += len(line); fit > 0 && size > maxPageBytes {
			break
		}
		fit++
	}
	if fit == len(all) {
		return body, nil
	}
	head.More = true
	b, err := json.Marshal(head)
	if err != nil {
		return nil, fmt.Errorf("writing the answer: %w", err)
	}
	body[0] = string(b)
	return body[:fit+1], nil
}

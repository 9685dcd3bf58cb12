// The field in which an expression is typed: with completion, and a line under a mistake.

import { html, useEffect, useMemo, useRef, useState } from '../lib/html.js';
import { choicesOf, contextOf } from '../lib/expression.js';
import { useListed } from '../lib/promql.js';

const LIST = 'expression-choices';

const NO_CONTEXT = { kind: 'none', word: '' };

/** The text again, behind the field, with a line under the mistake. It makes the field as high as the text. */
function Mirror({ text, mistake }) {
  const [from, to] = mistake ? [mistake.from, mistake.to] : [text.length, text.length];
  // A mistake at the end is marked behind the text.
  return html`<pre class="mirror" aria-hidden="true">${text.slice(0, from)}${mistake && html`<u>${text.slice(from, to) || ' '}</u>`}${text.slice(to)}${'\n'}</pre>`;
}

/**
 * `text`, `onText`: what the field has. `onRun`: the user presses Enter. `known`: see `useKnown`. `mistake`: see
 * `mistakeOf`.
 */
export function ExpressionField({ text, onText, onRun, known, mistake }) {
  const field = useRef();
  const list = useRef();
  const [context, setContext] = useState(NO_CONTEXT);
  const [chosen, setChosen] = useState(-1);
  const metric = context.metric || (context.isList && known.metrics.find(({ name }) => text.includes(name))?.name);
  const listed = useListed({ ...context, metric });
  const choices = useMemo(() => choicesOf(context, { ...known, listed }), [context, known, listed]);
  const isOpen = choices.length > 0;
  const close = () => setContext(NO_CONTEXT);
  const look = () => {
    const { value, selectionStart, selectionEnd } = field.current;
    setContext(selectionStart === selectionEnd ? contextOf(value.slice(0, selectionStart)) : NO_CONTEXT);
    setChosen(-1);
  };
  const take = ({ insert }) => {
    const { value, selectionStart } = field.current;
    // What the field has behind the cursor is not put there twice.
    const ending = insert.match(/[("]$/)?.[0];
    const rest = value.slice(selectionStart);
    const end = ending && rest.startsWith(ending) ? insert.slice(0, -1) : insert;
    field.current.setRangeText(end, context.from, selectionStart, 'end');
    if (end !== insert) field.current.selectionStart += 1;
    onText(field.current.value);
    field.current.focus();
    look();
  };
  const onKey = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (isOpen && step) setChosen((nth) => (nth + step + choices.length + 1) % (choices.length + 1));
    else if (isOpen && event.key === 'Tab' && !event.shiftKey) take(choices[Math.max(0, chosen)] ?? choices[0]);
    else if (isOpen && event.key === 'Enter' && choices[chosen]) take(choices[chosen]);
    else if (isOpen && event.key === 'Escape') close();
    else if (event.key === ' ' && event.ctrlKey) look();
    else if (event.key === 'Enter' && !event.shiftKey) {
      close();
      onRun();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };
  useEffect(() => list.current?.children[chosen]?.scrollIntoView({ block: 'nearest' }), [chosen]);
  return html`<div class="expression">
    <div class="field">
      <${Mirror} text=${text} mistake=${mistake} />
      <textarea ref=${field} id="expression" rows="1" spellcheck=${false} autocomplete="off" autocapitalize="off" aria-label="Expression"
        placeholder="An expression, such as sum(rate(dropsonde_plugin_polls_total[5m]))" role="combobox" aria-autocomplete="list"
        aria-expanded=${isOpen} aria-controls=${LIST} aria-activedescendant=${choices[chosen] ? `${LIST}-${chosen}` : undefined}
        aria-invalid=${!!mistake} aria-describedby=${mistake ? 'mistake' : undefined} value=${text}
        onInput=${(event) => { onText(event.currentTarget.value); look(); }} onKeyDown=${onKey} onBlur=${close} onClick=${look}></textarea>
    </div>
    <ul class="choices" id=${LIST} ref=${list} role="listbox" aria-label="Completions" hidden=${!isOpen}>
      ${choices.map((choice, nth) => html`<li id=${`${LIST}-${nth}`} role="option" aria-selected=${nth === chosen}
        onMouseDown=${(event) => { event.preventDefault(); take(choice); }}><code>${choice.text}</code> <small>${choice.what}</small></li>`)}
    </ul>
    ${mistake && html`<p class="mistake" id="mistake" role="status">${mistake.message}</p>`}
  </div>`;
}

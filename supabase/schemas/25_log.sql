-- The two records that the functions of the other files append to: the live log of a task and its chat.
--
-- What holds for the functions of all files: every change of a task or a run is one function, so it is one transaction. An
-- error that a caller may see has a SQLSTATE of the form PTnnn, which PostgREST answers as HTTP status nnn. No two functions
-- have the same name: PostgREST must find exactly one for the arguments it is given, and the rights need no argument types.

-- Appends `[{"kind", "payload"}]` to a task's live log. The caller holds the lock on the run's row, so the numbers have
-- neither gaps nor duplicates.
create function public.append_events(p_task_id bigint, p_run_id uuid, p_events jsonb) returns void
language sql set search_path = '' as $$
    insert into public.task_events (task_id, seq, run_id, kind, payload)
    select p_task_id, last.seq + e.n, p_run_id, e.event ->> 'kind', coalesce(e.event -> 'payload', '{}'::jsonb)
    from jsonb_array_elements(coalesce(p_events, '[]'::jsonb)) with ordinality as e (event, n),
        (select coalesce(max(seq), 0) as seq from public.task_events where task_id = p_task_id) as last
$$;

create function public.chat_message(p_role text, p_content text) returns jsonb
language sql stable set search_path = '' as $$
    select jsonb_build_object(
        'role', p_role, 'content', p_content,
        'timestamp', to_char(now() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'))
$$;

-- Appends one chat message in one statement, so that two concurrent calls both keep theirs. PT404: not a task of the caller.
-- PT409: the chat has reached 2 MB; every reader of the task reads all of it.
create function public.append_chat_message(p_task_id bigint, p_role text, p_content text) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
begin
    if p_role not in ('user', 'assistant') or coalesce(p_content, '') = '' or length(p_content) > 100000 then
        raise sqlstate 'PT400' using message = 'bad_chat_message';
    end if;
    update public.tasks set chat_messages = coalesce(chat_messages, '[]'::jsonb)
        || jsonb_build_array(public.chat_message(p_role, p_content))
    where id = p_task_id and user_id = v_user and octet_length(coalesce(chat_messages, '[]'::jsonb)::text) < 2000000;
    if found then
        return;
    elsif exists (select 1 from public.tasks where id = p_task_id and user_id = v_user) then
        raise sqlstate 'PT409' using message = 'chat_full';
    end if;
    raise sqlstate 'PT404' using message = 'task_not_found';
end $$;

revoke all on function public.append_events, public.chat_message, public.append_chat_message
    from public, anon, authenticated;
grant execute on function public.append_chat_message to authenticated;
grant execute on function public.append_events, public.chat_message to service_role;
